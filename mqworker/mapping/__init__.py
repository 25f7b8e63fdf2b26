"""`mqworker map`: each line of a file as a message of a stage, its results in the order of the lines.

The verb's process is the stage's Producer: `run` has the loop, `crew` a Stage with its Consumers, and the link is a
FileLink (mqworker/brokers/files); there is no Service and no broker. `work` says what is computed, `files` keeps on the
disk how far it is, `watcher` says what is shown of it.
"""
