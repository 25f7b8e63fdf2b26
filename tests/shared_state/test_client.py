"""Calls from a Consumer's side: interrupted, late, from threads and forked processes, in groups."""

import os
import signal
import threading

import msgspec
import pytest

from mqworker.errors import Reject, Retry, SharedCallError, SharedUnavailable, SharedValueError, SoftTimeLimit
from mqworker.ipc.child import living
from mqworker.ipc.frames import FrameParser, pack
from mqworker.shared_state.client import GROUP, GROUP_CALLS, Argument, SharedClient
from mqworker.shared_state.folder import connect
from mqworker.shared_state.identity import message_key
from mqworker.shared_state.messages import Call, Calls
from tests.support.children import end_children
from tests.support.loop import on_loop
from tests.support.shared_object import DEADLINE, NAME, Shared, client, in_thread


@pytest.fixture(autouse=True)
def nothing_left():
    """After each test, what is left is ended."""
    yield
    end_children()
    assert not living


def key(name):
    return message_key(name, b"body")


def raise_soft_limit(_signal, _frame):
    raise SoftTimeLimit


@pytest.mark.untraced  # its signal handler raises
@on_loop
async def test_a_late_answer_never_becomes_that_of_the_next_call(tmp_path):
    """A soft limit rings inside a call; the next one gets its own answer, and the first has its effect once."""
    await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    before = signal.signal(signal.SIGALRM, raise_soft_limit)
    try:
        for number in range(10):
            caller.begin(key(f"m{number}"), has_id=True)
            with pytest.raises(SoftTimeLimit):  # noqa: PT012 - it may ring before the call
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                caller.call("sleep", 0.05)
            assert caller.call("add", f"k{number}") == number + 1
        assert caller.call("get", "k0") == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@on_loop
async def test_a_call_gives_up_at_its_deadline_and_the_next_is_its_own(tmp_path):
    """Whether the object is slow or not there at all."""
    shared = await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s", deadline=0.2)
    with pytest.raises(SharedUnavailable, match=r"not answered, within 0\.2 s"):
        await in_thread(caller.call, "sleep", 1.0)
    caller.deadline = DEADLINE
    assert await in_thread(caller.call, "add", "a") == 1
    await shared.kill()
    caller.deadline = 0.2
    with pytest.raises(SharedUnavailable, match="is down"):
        await in_thread(caller.call, "add", "a")
    with pytest.raises(SharedUnavailable, match="is down"):
        SharedClient(tmp_path, "nowhere", "s", deadline=0.0).call("add", "a")


@on_loop
async def test_equal_calls_of_one_run_are_counted_and_a_second_run_finds_each(tmp_path):
    """The order of a dict does not count; a third equal call is a new one."""
    await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    for _ in range(2):
        caller.begin(key("m"), has_id=True)
        assert [caller.call("add", "a"), caller.call("add", "a"), caller.call("get", "a")] == [1, 1, 2]
        assert caller.link("tally", {"id": "m"}) == {"id": "m"}
        assert caller.link("tally", {"id": "m"}, part=1) == {"id": "m"}
    assert caller.call("add", "a") == 2  # one entry more than `a`: that of the link
    caller.end()
    assert caller.call("all") == {"a": 3, "link m": 2}


@on_loop
async def test_stages_do_not_share_what_is_remembered(tmp_path):
    """A message that two stages get has an effect from each."""
    await Shared(tmp_path).start()
    for stage in ("s", "t"):
        caller = SharedClient(tmp_path, NAME, stage)
        caller.begin(key("m"), has_id=True)
        caller.call("add", "a")
    assert caller.call("get", "a") == 2


@on_loop
async def test_calls_from_threads_belong_to_no_message(tmp_path):
    """Each thread has a connection of its own; nothing is mixed up, and what they do is not remembered."""
    shared = await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    caller.begin(key("m"), has_id=True)
    wrong = []

    def work(name):
        for number in range(50):
            caller.call("add", f"{name} {number}")
            if caller.call("get", f"{name} {number}") != 1:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        await in_thread(thread.join, DEADLINE)
    assert not wrong
    await shared.until(lambda: shared.status.counts["calls"] == 400, "the calls to be told")
    assert shared.status.counts["without_id"] == 400
    assert shared.status.remembered == 0
    await shared.until(lambda: shared.status.connections == 0, "their connections to be closed")


@on_loop
async def test_a_forked_child_has_a_connection_of_its_own(tmp_path):
    """Parent and child call at the same time, each with its own answers, and the parent's connection goes on."""
    await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    caller.begin(key("m"), has_id=True)
    assert caller.call("add", "before") == 1
    pid = os.fork()
    if pid == 0:
        right = False
        try:
            right = all(caller.call("get", "before") == 1 for _ in range(200))
            caller.call("add", "before")
        finally:
            os._exit(0 if right else 1)
    answers = [caller.call("add", f"parent {number}") for number in range(200)]
    assert answers == list(range(2, 202))
    _, status = await in_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert caller.call("get", "before") == 2


@on_loop
async def test_a_group_is_answered_one_by_one(tmp_path):
    """Each call with its own value, refusal or failure, in order; large ones in several frames."""
    shared = await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    large = "x" * (GROUP // 5)
    values = [{"id": "a"}, {"id": (1,)}, {"no": "id"}, *({"id": f"{large}{number}"} for number in range(12))]
    arguments = [Argument(key(str(number)), True, value) for number, value in enumerate(values)]
    answers = caller.links("tally", arguments)
    assert answers[0].result() is values[0]
    with pytest.raises(SharedValueError, match=r"the argument\['id'\] is of type tuple"):
        answers[1].result()
    with pytest.raises(SharedCallError, match="KeyError: 'id'"):
        answers[2].result()
    assert [each.result() for each in answers[3:]] == values[3:]
    assert caller.links("tally", []) == []
    many = [Argument(key(f"many {number}"), True, {"id": "m"}) for number in range(3 * GROUP_CALLS + 1)]
    assert [each.result() for each in caller.links("tally", many)] == [{"id": "m"}] * len(many)
    assert (await shared.fresh_status()).remembered == 14 + len(many)


@on_loop
async def test_an_answer_that_is_larger_than_the_sockets_buffers_arrives(tmp_path):
    """Also many of a group, and whoever reads slowly; the others are answered meanwhile."""
    shared = await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s", deadline=DEADLINE)
    assert await in_thread(caller.call, "fill", 40_000) is None
    assert len(await in_thread(caller.call, "all")) == 40_000
    slow = SharedClient(tmp_path, NAME, "s", deadline=DEADLINE)
    lines = [connect(shared.folder, 1.0) for _ in range(3)]
    for line in lines:
        line.sendall(pack(msgspec.msgpack.encode(Calls([Call(1, b"", False, b"", "all", b"\x92\x90\x80")]))))
    assert len(await in_thread(slow.call, "all")) == 40_000
    for line in lines:
        line.settimeout(DEADLINE)
        parser, received = FrameParser(), []
        while not received:
            received += parser.feed(await in_thread(line.recv, 1000))
        assert len(received[0]) > 500_000
        line.close()


@on_loop
async def test_a_call_of_no_message_is_not_made_again(tmp_path):
    """It may have had its effect: its caller is told, at once; the next call finds the new process."""
    shared = await Shared(tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    assert await in_thread(caller.call, "get", "a") == 0
    with pytest.raises(SharedUnavailable, match="has ended in this call; it belongs to no message"):
        await in_thread(caller.call, "die")
    shared = await shared.again()
    assert await in_thread(caller.call, "add", "a") == 1
    await shared.kill()
    shared = await shared.again()
    assert await in_thread(caller.call, "get", "a") == 1, "the connection was lost before the call, not in it"


@on_loop
async def test_what_is_raised_there_is_raised_here(tmp_path):
    """Reject, Retry, a failure with its traceback, a value that would change on either way."""
    (tmp_path / "rules.py").write_text(
        "from mqworker import Reject, Retry\n"
        "class Rule:\n"
        "    count = 0\n"
        "    def reject(self): raise Reject('never')\n"
        "    def retry(self):\n"
        "        self.count += 1\n"
        "        if self.count < 3: raise Retry(after=5)\n"
        "        return self.count\n"
        "    def fail(self, x): return 1 // x\n"
        "    def pair(self): return (1, 2)\n"
    )
    await Shared(tmp_path, job="rules:Rule", root=tmp_path).start()
    caller = SharedClient(tmp_path, NAME, "s")
    caller.begin(key("m"), has_id=True)
    proxy = caller.proxy()
    with pytest.raises(Reject, match="never"):
        proxy.reject()
    with pytest.raises(SharedCallError) as failed:
        proxy.fail(0)
    assert failed.value.type == "ZeroDivisionError"
    assert "by zero" in failed.value.message  # the rest of it differs between versions of Python
    assert "return 1 // x" in failed.value.traceback
    with pytest.raises(SharedValueError, match=r"the answer of Rule\.pair is of type tuple"):
        proxy.pair()
    with pytest.raises(SharedValueError, match="argument 1 of fail is of type tuple"):
        proxy.fail((1,))
    with pytest.raises(SharedValueError, match=r"x\[0\] is of type set"):
        proxy.fail(x=[{1}])
    with pytest.raises(SharedValueError, match="can be passed"):
        proxy.fail("x" * (1 << 20))
    with pytest.raises(AttributeError, match="_secret"):
        proxy._secret()
    for _ in range(2):  # a Retry is asked again by the next run
        caller.begin(key("m"), has_id=True)
        with pytest.raises(Retry) as retry:
            proxy.retry()
        assert retry.value.after == 5
    caller.begin(key("m"), has_id=True)
    assert proxy.retry() == 3


@on_loop
async def test_parameters_are_those_of_the_calling_stage(tmp_path):
    """With the calls that follow, and again in a replay."""
    (tmp_path / "rules.py").write_text(
        "class Params(__import__('msgspec').Struct):\n    window: int = 300\n"
        "class Rule:\n    def ask(self, params): return params.window\n"
    )
    shared = await Shared(tmp_path, job="rules:Rule", root=tmp_path).start()
    one, other = SharedClient(tmp_path, NAME, "one"), SharedClient(tmp_path, NAME, "other")
    other.use_params(b'{"window": 5, "of another job": 1}')
    assert [each.call("ask") for each in (one, other, one)] == [300, 5, 300]
    one.use_params(b'{"window": 7}')
    assert one.call("ask") == 7
    one.use_params(b'{"window": "wide"}')
    with pytest.raises(SharedCallError, match="window"):
        one.call("ask")
    await shared.kill()
    shared = await shared.again()
    assert shared.status.counts["replayed"] == 4
    assert shared.status.diverged == {}


@on_loop
async def test_a_state_folder_with_a_long_name_will_do(tmp_path):
    """The path of a unix socket has at most 107 bytes, that of a folder 4,095."""
    state_dir = tmp_path / ("long" * 30) / ("name" * 30)
    await Shared(state_dir).start()
    assert await in_thread(client(state_dir, "m").call, "add", "a") == 1


@on_loop
async def test_a_caller_that_does_not_read_holds_up_nobody(tmp_path):
    """What it leaves unread is bounded, then it is not read from; the others are answered meanwhile."""
    shared = await Shared(tmp_path).start()
    await in_thread(client(tmp_path, "m").call, "add", "x" * 900_000)
    deaf = connect(shared.folder, DEADLINE)
    ask = pack(msgspec.msgpack.encode(Calls([Call(1, b"", False, b"", "all", b"\x92\x90\x80")])))
    deaf.sendall(1000 * ask)
    assert await in_thread(client(tmp_path, "m2").call, "add", "z") == 2
    assert (await shared.fresh_status()).counts["calls"] < 20
    deaf.close()
    await shared.until(lambda: shared.status.connections == 0, "the end of both connections")
