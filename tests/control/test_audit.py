"""The file and the memory of the audit: bounded, private, in order, whatever a kill has left."""

import contextlib
import os
import stat
import threading
import time

import msgspec
import pytest

from mqworker.control import audit
from mqworker.control.audit import AuditRecord, AuditTrail, sentence
from mqworker.control.difference import FieldChange
from tests.support.waiting import AMPLE, wait_for


def record(path="/x", **values) -> AuditRecord:
    return AuditRecord(0, 1.0, "token", "::1", "", "PUT", path, "s", "Scale", 200, "applied", 0.1, **values)


def numbers(trail: AuditTrail) -> list[int]:
    return [each.n for each in trail.since(0)]


def test_a_torn_record_is_passed_over(tmp_path):
    """After a kill in the middle of a record the next begins on a line of its own, with the next number."""
    first = AuditTrail(tmp_path)
    for _ in range(3):
        first.add(record())
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    second = AuditTrail(tmp_path)
    assert numbers(second) == [1, 2]
    second.add(record())
    assert numbers(AuditTrail(tmp_path)) == [1, 2, 3]


@pytest.mark.parametrize("lasting", [True, False])
def test_no_number_is_given_twice(tmp_path, monkeypatch, lasting):
    """Also not after a kill, to records that were in memory only; those that last go on without a gap."""
    monkeypatch.setattr(audit, "RESERVED", 3)
    given: list[int] = []
    for life in range(3):
        trail = AuditTrail(tmp_path)
        for number in range(6):
            trail.add(record(), lasting=lasting or number == life)
            given.append(trail.after(0)[0][-1].n)
    assert given == sorted(set(given))
    assert not lasting or given == list(range(1, 19))
    (tmp_path / "audit.number").write_bytes(b"nonsense")
    assert AuditTrail(tmp_path).after(0)[0]


def test_the_file_is_private_and_no_link(tmp_path):
    """The file can be read by its owner only, and a link that somebody has planted is not followed."""
    AuditTrail(tmp_path).add(record())
    path = tmp_path / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(b"")
    path.symlink_to(tmp_path / "elsewhere")
    trail = AuditTrail(tmp_path)
    trail.add(record())
    assert ((tmp_path / "elsewhere").read_bytes(), numbers(trail)) == (b"", [1])


def test_both_bounds(tmp_path, monkeypatch):
    """Memory holds the last records up to their number and size, two files the last ones up to theirs."""
    monkeypatch.setattr(audit, "FILE", 20_000)
    trail = AuditTrail(tmp_path)
    for _ in range(audit.RECORDS + 50):
        trail.add(record())
    assert numbers(trail) == list(range(51, audit.RECORDS + 51))
    assert trail.after(40) == (trail.since(0), 10)
    assert trail.after(audit.RECORDS, 3)[0][-1].n == audit.RECORDS + 50
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert (len(list(tmp_path.iterdir())), size < 45_000) == (2, True)
    kept = numbers(AuditTrail(tmp_path))
    assert kept == list(range(kept[0], audit.RECORDS + 51))
    monkeypatch.setattr(audit, "BYTES", 10_000)
    trail.add(record("x" * 4000))
    trail.add(record("x" * 4000))
    assert sum(len(msgspec.json.encode(each)) for each in trail.since(0)) <= 10_000


def test_what_cannot_be_written_stays_in_memory(tmp_path, caplog):
    """A folder that is gone costs the file, once logged, and neither the record nor the request."""
    trail = AuditTrail(tmp_path / "gone")
    trail.add(record())
    trail.add(record())
    assert numbers(trail) == [1, 2]
    assert [each.event for each in caplog.records] == ["audit_not_written"]
    (tmp_path / "gone").mkdir()
    trail.add(record())
    assert numbers(AuditTrail(tmp_path / "gone")) == [3]


def test_threads_write_in_order(tmp_path):
    """Records of several threads have distinct numbers, and stand in the file in their order."""
    trail = AuditTrail(tmp_path)
    threads = [threading.Thread(target=lambda: [trail.add(record()) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(trail) == numbers(AuditTrail(tmp_path)) == list(range(1, 201))


def test_a_disk_that_hangs_holds_one_thread(tmp_path):
    """While a record hangs on its way to the disk, others are kept and read; what waited is then written in order."""
    trail = AuditTrail(tmp_path)
    os.mkfifo(tmp_path / "audit.jsonl")  # full, it takes nothing: a write to it hangs
    disk = os.open(tmp_path / "audit.jsonl", os.O_RDWR | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(disk, b"\n" * 4096):
            pass
    hanging = threading.Thread(target=trail.add, args=(record(),), daemon=True)
    hanging.start()
    wait_for(lambda: numbers(trail) == [1], AMPLE, "the first record")
    done: list[str] = []

    def others() -> None:
        trail.add(record(changes=(FieldChange("s", "running", True, False),)), wait=False)
        done.append(str(trail.author("s", "running")))
        trail.add(record())
        done.append(str(numbers(trail)))

    threading.Thread(target=others, daemon=True).start()
    wait_for(lambda: len(done) == 2, AMPLE, "what others keep and read")
    assert (done[0].startswith("Author(by='token'"), done[1], hanging.is_alive()) == (True, "[1, 2, 3]", True)
    written = b""
    while written.count(b"}\n") < 3:
        with contextlib.suppress(BlockingIOError):
            written += os.read(disk, 65536).lstrip(b"\n")
    hanging.join(AMPLE)
    assert [msgspec.json.decode(line)["n"] for line in written.splitlines()] == [1, 2, 3]
    os.close(disk)


def test_a_record_costs_little(tmp_path):
    """A record takes well below a millisecond of the thread that answers: nothing is synced."""
    trail = AuditTrail(tmp_path)
    begun = time.thread_time()
    for _ in range(200):
        trail.add(record(changes=(FieldChange("s", "params.a", 1, 2),)))
    assert (time.thread_time() - begun) / 200 < 0.002


@pytest.mark.parametrize("planted", [b"", b"\n\n", b"nonsense", b"\x00" * 100, b'{"n": 1}', b"\xff\xfe\n[1]\n"])
def test_whatever_is_in_the_file(tmp_path, planted):
    """A file with anything else in it costs the start nothing, and what is added is found again."""
    (tmp_path / "audit.jsonl").write_bytes(planted)
    trail = AuditTrail(tmp_path)
    trail.add(record())
    assert numbers(AuditTrail(tmp_path)) == [1]


def test_one_line_for_a_person():
    """Who, from where, what, the answer, and from what to what."""
    changes = (FieldChange("energy", "params.gain", 0.9, 0.95), FieldChange("energy", "params.old", 1))
    line = "token from ::1: PUT /x: 200 (applied); energy.params.gain: 0.9 -> 0.95; energy.params.old: 1 -> -"
    assert sentence(record(changes=changes)) == line
