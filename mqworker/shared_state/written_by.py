"""Which code has written the journal of a shared object that lies in its folder.

Read by the Service before it starts the object's process: a journal is replayed only under the code that wrote it.
"""

from pathlib import Path

from mqworker.shared_state import segments


def written_by(folder: Path) -> str:
    """Return the digest of the code whose calls have to be replayed; "" if there are none, or they cannot be read.

    What cannot be read is the object's process to say.
    """
    try:
        files = segments.choose(path.name for path in folder.iterdir())
        for number in files.journal:
            data = (folder / segments.segment_name(number)).read_bytes()
            head = segments.read_head(data)
            if next(iter(segments.read_records(data, head)), None) is not None:
                return head.digest
    except (OSError, segments.DamagedState):
        pass
    return ""
