"""`mqworker map`: handles each line of a file as a message of a stage; the results are in the order of the lines.

The command's process is the stage's Producer: `run` has the loop, `crew` a Stage with its Consumers, and the link is a
FileLink (mqworker/brokers/files); there is no Service and no broker. `work` defines what is computed, `files` stores
the progress on disk, `watcher` defines what is shown of it.
"""
