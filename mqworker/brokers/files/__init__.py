"""Files as a stage's broker: the lines of one file are its messages, and the results are written in their order.

Runs in `mqworker map`, whose process is the stage's Producer: `link` is a Link like those of the brokers, `reader`
reads lines in a thread, `window` (pure) tracks which lines are settled, `outcomes` decides what a publication means for
its line, and `letters` writes dead letters as JSON. What is stored, and when, is decided in mqworker/mapping.
"""

from mqworker.brokers.files.link import FileLink

__all__ = ["FileLink"]
