"""A change of jobs or code from its candidate to its end, as the desired state sees it."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.model import Config, InputConfig, StageConfig
from mqworker.control.chain import links
from mqworker.control.desired_state import (
    Commit,
    Document,
    GoBack,
    Reload,
    Revert,
    SetConsumers,
    SetJobs,
    SetParams,
    SetRunning,
    Undo,
    begin,
    change,
    copies,
)
from mqworker.control.generations import FoundCode, earlier
from mqworker.control.stage_desired import UNDONE, StageDesired
from mqworker.control.switch import Previous, committed
from mqworker.ipc.generation import CodeCopy

CONFIG = Config(stages={"s": StageConfig(input=InputConfig(queue="s"), jobs=("a:b",), consumers=2)})
A, B, C = (CodeCopy(name, "/app") for name in "abc")
START, _ = begin(None, CONFIG, {"s": FoundCode(A)})


def after(*asked, document: Document = START) -> Document:
    for each in asked:
        document = change(document, each, CONFIG, 7.0)
    return document


def stage(*asked, document: Document = START) -> StageDesired:
    return after(*asked, document=document).stages["s"]


def test_a_change_of_code_is_a_candidate_until_it_is_committed():
    """Nothing of the generation in use changes before; its copy is kept; then all of it changes, and it is history."""
    document = after(Reload("s", B, {"n": 1}))
    now = document.stages["s"]
    assert (now.version, now.code, now.history) == (START.stages["s"].version, 1, ())
    assert (now.candidate.version.generation, now.candidate.version.params, now.candidate.code) == (2, {"n": 1}, 2)
    assert set(copies(document)) == {A, B}
    done = stage(Commit("s", 2), document=document)
    assert (done.generation, done.code, done.copy, done.params, done.candidate) == (2, 2, B, {"n": 1}, None)
    assert ([each.generation for each in done.history], done.configured) == ([1], {"params": {}})
    assert after(Commit("s", 9), document=document) is document


def test_what_cannot_be_set_up_is_given_up_with_its_reason():
    """Its number is not used again; a start does not take its code, until the folder has other code."""
    document = after(Reload("s", B, {}), Undo("s", 2, "no model"))
    now = document.stages["s"]
    assert (now.version, now.candidate) == (START.stages["s"].version, None)
    told = [(each.generation, each.code, each.reason, each.time, each.kind) for each in now.undone]
    assert told == [(2, 2, "no model", 7.0, "failed")]
    assert stage(Reload("s", C, {}), document=document).candidate.version.generation == 3
    again, told = begin(document, CONFIG, {"s": FoundCode(B)})
    assert (again.stages["s"].copy, again.stages["s"].generation, told) == (A, 3, [])
    assert begin(document, CONFIG, {"s": FoundCode(C)})[0].stages["s"].copy == C


def test_a_change_of_the_chain_that_is_given_up_leaves_the_code_in_the_folder_alone():
    """It was not at fault."""
    now = stage(SetJobs("s", links(["a:b", "c:d"]), {}), Undo("s", 2, "no model"))
    assert (now.configured, now.folder, now.jobs) == ({}, "a", links(["a:b"]))


def test_code_that_crashes_at_its_first_message_gives_way_to_the_former_consumers():
    """Under a new number, with everything that belonged to it; a start does not take that code either."""
    first = after(Reload("s", B, {"n": 1}))
    previous = Previous(first.stages["s"].version, 1)
    document = after(Commit("s", 2), Revert("s", 2, previous, "it crashed"), document=first)
    now = document.stages["s"]
    assert (now.generation, now.code, now.of, now.copy, now.params) == (3, 1, 1, A, {})
    assert ([each.generation for each in now.history], now.undone[-1].reason) == ([1, 2], "it crashed")
    assert after(Revert("s", 2, previous, "it crashed"), document=document) is document
    assert begin(document, CONFIG, {"s": FoundCode(B)})[0].stages["s"].copy == A


def test_a_restart_with_the_same_code_can_be_taken_back_too():
    """Only the number changes."""
    first = after(Reload("s", A, {}))
    now = stage(Commit("s", 2), Revert("s", 2, Previous(first.stages["s"].version, 1), "it crashed"), document=first)
    assert (now.generation, now.code, now.copy, now.history, now.configured) == (3, 1, A, (), {})


def test_a_newer_change_builds_on_the_candidate_and_takes_its_place():
    """Whoever asked for the older one can be told."""
    ahead = committed(stage(SetJobs("s", links(["a:b", "c:d"]), {})))
    document = after(SetJobs("s", ahead.jobs, {}), Reload("s", B, {}))
    now = document.stages["s"]
    assert (now.candidate.version.jobs, now.candidate.version.copy) == (links(["a:b", "c:d"]), B)
    told = [(each.code, each.kind, each.reason) for each in now.undone]
    assert told == [(2, "taken back", "generation 3 was asked for")]
    done = stage(Commit("s", 3), document=document)
    assert (done.generation, done.configured) == (3, {"jobs": ["a:b"]})
    assert [each.generation for each in done.history] == [1]


def test_the_same_change_twice_is_one():
    """Somebody who asks again does not begin the set-up anew."""
    document = after(Reload("s", B, {}))
    assert after(Reload("s", B, {}), document=document) is document


def test_a_restart_makes_the_code_that_is_being_prepared_the_folders():
    """It was prepared as a rollback, while the folder had other code; now the folder has the same."""
    back = after(Reload("s", B, {}), Commit("s", 2))
    document = after(GoBack("s", back.stages["s"].history[0]), document=back)
    assert document.stages["s"].candidate.live == {"code": "b"}
    now = stage(Reload("s", A, {}), document=document)
    assert (now.candidate.code, now.candidate.folder, now.candidate.live) == (3, "a", {})


def test_what_is_lost_with_its_producer_is_not_to_blame():
    """A start takes the code in the folder."""
    document = after(Reload("s", B, {}), Undo("s", 2, "it was killed", "lost"))
    assert begin(document, CONFIG, {"s": FoundCode(B)})[0].stages["s"].copy == B


def test_a_stage_that_runs_an_earlier_generation_does_so_until_its_code_is_repaired():
    """A change of the chain does not repair it; other code does, also while the stage is stopped."""
    document, told = begin(START, CONFIG, {"s": FoundCode(B, refused="no import")})
    assert told == ["stage s: generation 2 works on, because what is there now is refused: no import"]
    assert document.stages["s"].copy == A
    chain = stage(SetJobs("s", links(["a:b", "c:d"]), {}), Commit("s", 3), document=document)
    assert chain.degraded
    assert not stage(Reload("s", B, {}), Commit("s", 3), document=document).degraded
    assert not stage(SetRunning("s", False), Reload("s", B, {}), document=document).degraded


def test_other_names_of_the_same_jobs_keep_the_consumers():
    """Also those of the candidate."""
    two = links(["a:b", "c:d"])
    named = [msgspec.structs.replace(link, name=link.name * 2) for link in two]
    assert stage(SetJobs("s", [msgspec.structs.replace(START.stages["s"].jobs[0], name="x")], {})).candidate is None
    now = stage(SetJobs("s", two, {}), SetJobs("s", named, {}))
    assert (now.candidate.code, now.candidate.version.generation, now.candidate.version.jobs) == (2, 3, named)
    assert now.undone == ()


def test_parameters_are_in_force_at_once_and_go_into_the_candidate():
    """It gets a number above theirs, and keeps its Consumers."""
    document = after(Reload("s", B, {"new": 1}), SetParams("s", {"n": 2}, candidates={"n": 2, "new": 1}))
    now = document.stages["s"]
    assert (now.generation, now.params, now.code) == (3, {"n": 2}, 1)
    assert (now.candidate.version.generation, now.candidate.code) == (4, 2)
    done = stage(Commit("s", 2), document=document)
    assert (done.generation, done.params, done.configured) == (4, {"n": 2, "new": 1}, {"params": {}})
    assert [each.generation for each in done.history] == [1, 3]
    same = {"candidates": {"n": 2, "new": 1}}
    assert after(SetParams("s", {"n": 2}, **same), document=document) is document


def test_a_stage_without_processes_takes_a_change_at_once():
    """Nothing can be set up; and a stop takes back what is in progress."""
    now = stage(SetRunning("s", False), Reload("s", B, {}))
    assert (now.copy, now.candidate) == (B, None)
    stopped = stage(Reload("s", B, {}), SetRunning("s", False))
    assert (stopped.copy, stopped.candidate, stopped.undone[-1].kind) == (A, None, "taken back")


def test_a_start_gives_up_what_was_in_progress_and_says_so():
    """The generation in use goes on with a number of its own; the folder's code counts as at each start."""
    document, told = begin(after(SetJobs("s", links(["c:d"]), {})), CONFIG, {"s": FoundCode(A)})
    now = document.stages["s"]
    assert (now.jobs, now.candidate, now.generation) == (links(["a:b"]), None, 3)
    assert told == ["stage s: generation 2 was not committed before the service ended"]


def test_settings_of_the_meantime_outlast_a_commit():
    """It makes live what it changes, and nothing else."""
    now = stage(Reload("s", B, {}), SetConsumers("s", 5), Commit("s", 2))
    assert (now.consumers, now.configured) == (5, {"consumers": 2})


params = st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2)
chains = st.lists(st.sampled_from(["a:b", "c:d", "e:f"]), min_size=1, max_size=2, unique=True)
events = st.lists(
    st.builds(Reload, st.just("s"), st.sampled_from([A, B, C]), params)
    | st.builds(SetJobs, st.just("s"), chains.map(links), params)
    | st.builds(SetParams, st.just("s"), params, candidates=params)
    | st.sampled_from(["commit", "undo", "take back", "revert", "back", "start"]),
    max_size=25,
)


@given(events)
def test_numbers_never_go_back(happens):
    """No number names two generations, whatever happens in whichever order; and what is undone can be told."""
    document, previous, seen = START, None, {START.stages["s"].generation: START.stages["s"].version}
    for event in happens:
        was = document.stages["s"]
        code = was.candidate.code if was.candidate is not None else 0
        match event:
            case "commit":
                document = after(Commit("s", code), document=document)
                previous = Previous(was.version, was.code) if code else previous
            case "undo":
                document = after(Undo("s", code, "no"), document=document)
            case "take back":
                document = after(Undo("s", code, "no", "taken back"), document=document)
            case "revert" if previous is not None and was.candidate is None:
                document = after(Revert("s", was.code, previous, "no"), document=document)
            case "back" if (version := earlier(was, None)) is not None:
                document = after(GoBack("s", version), document=document)
            case "start":
                document, _ = begin(document, CONFIG)
            case str():
                continue
            case _:
                document = after(event, document=document)
        now = document.stages["s"]
        assert now.generation >= was.generation
        assert now.candidate is None or now.candidate.version.generation > now.generation
        assert len(now.undone) <= UNDONE
        version = msgspec.structs.replace(now.version, of=0, params_of=0)
        assert seen.setdefault(now.generation, version) == version
        if code and now.candidate is None and now.code != code:
            assert now.undone[-1].code == code
