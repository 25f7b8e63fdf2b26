"""`mqworker map`: each line of a file as a message of a stage, its results in the order of the lines.

The verb's process is the stage's Producer: `run` has the loop, a Stage with a FileLink (mqworker/brokers/files) and its
Consumers, no Service and no broker. `work` says what is computed, `files` keeps on the disk how far it is.
"""
