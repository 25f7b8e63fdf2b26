"""The desired state: how it changes, and how it is stored."""

import resource

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.config.model import Config, InputConfig, ServiceConfig, StageConfig, TimeLimitConfig
from mqworker.control.chain import Add, Alter, edited, links
from mqworker.control.desired_state import (
    Commit,
    Document,
    GoBack,
    Reload,
    SetConsumers,
    SetJobs,
    SetLimits,
    SetListening,
    SetLogLevel,
    SetParams,
    SetRunning,
    SetWorking,
    begin,
    copies,
    rollback,
)
from mqworker.control.desired_state import change as stored
from mqworker.control.generations import FoundCode, earlier
from mqworker.control.stage_desired import HISTORY, Version, value_of
from mqworker.control.store import Store
from mqworker.ipc.generation import CodeCopy

LEVELS = ["debug", "info", "warning", "error"]


def config(level="info", soft=0.0, hard=0.0, **stage):
    values = {"consumers": 2, "time_limit": TimeLimitConfig(soft, hard), **stage}
    return Config(
        stages={name: StageConfig(input=InputConfig(queue=name), jobs=("a:b",), **values) for name in ("s", "t")},
        service=ServiceConfig(log_level=level),
    )


PLAIN = config()
A, B, C = (CodeCopy(name, "/app") for name in "abc")


def found(copy, *, chosen=True, jobs=True):
    """Return what a start found: this code in the folder for stage s, A for the other."""
    return {"s": FoundCode(copy, chosen, jobs), "t": FoundCode(A)}


START, _ = begin(None, PLAIN, found(A))

params = st.dictionaries(st.sampled_from("ab"), st.integers(0, 2) | st.lists(st.booleans(), max_size=2), max_size=2)
stages = st.sampled_from("st")
counts = st.integers(0, 3) | st.just("auto")
limits = st.sampled_from([0.0, 1.0, 2.5])
settings_changes = (
    st.builds(SetListening, stages, st.booleans())
    | st.builds(SetWorking, stages, st.booleans())
    | st.builds(SetRunning, stages, st.booleans())
    | st.builds(SetConsumers, stages, counts)
    | st.builds(SetParams, stages, params)
    | st.builds(SetLimits, stages, limits, limits)
    | st.builds(SetLogLevel, st.sampled_from(LEVELS))
)
changes = settings_changes | st.builds(Reload, stages, st.sampled_from([A, B, None]), params)
configs = st.builds(config, st.sampled_from(LEVELS), limits, limits, consumers=counts, params=params)


def change(document, asked, with_config):
    """Make a change, and let it be committed at once if it needs other Consumers."""
    new = stored(document, asked, with_config)
    candidates = {name: stage.candidate.code for name, stage in new.stages.items() if stage.candidate is not None}
    for name, code in candidates.items():
        new = stored(new, Commit(name, code), with_config)
    return new


def after(document, asked, with_config=PLAIN):
    for each in asked:
        document = change(document, each(document) if callable(each) else each, with_config)
    return document


def reload(copy):
    """Return the change that takes this code, with the parameters of the stage as it is then."""
    return lambda document: Reload("s", copy, document.stages["s"].params)


# --- changes


@given(st.lists(changes, max_size=6), settings_changes)
def test_a_change_made_twice_changes_once(before, asked):
    """Setting a value that is already set returns the same document, with the same revision."""
    first = change(after(START, before), asked, PLAIN)
    assert change(first, asked, PLAIN) is first


@pytest.mark.parametrize(
    "asked",
    [
        SetListening("s", True),
        SetWorking("s", True),
        SetRunning("s", True),
        SetConsumers("s", 2),
        SetParams("s", {}),
        SetLimits("s", 0.0, 0.0),
        SetLogLevel("info"),
    ],
    ids=lambda asked: type(asked).__name__,
)
def test_asking_for_the_configured_state_changes_nothing(asked):
    """Nor does it make the value a live one, which would outlast the file's."""
    assert change(START, asked, PLAIN) is START


def test_a_number_given_by_hand_ends_what_is_automatic():
    """Until `auto` is given, or the configuration changes; the same number as the present share does it too."""
    automatic = config(consumers="auto")
    document, _ = begin(None, automatic)
    assert document.stages["s"].auto
    assert change(document, SetConsumers("s", "auto"), automatic) is document
    by_hand = change(document, SetConsumers("s", 1), automatic)
    assert (by_hand.stages["s"].auto, by_hand.stages["s"].consumers) == (False, 1)
    again, told = begin(by_hand, automatic)
    assert (again.stages["s"].auto, again.stages["t"].auto, told) == (False, True, [])
    given_back = change(again, SetConsumers("s", "auto"), automatic)
    assert given_back.stages["s"].auto
    other, told = begin(by_hand, config(consumers=3))
    assert (other.stages["s"].auto, other.stages["s"].consumers) == (False, 3)
    assert [note for note in told if "stage s: consumers" in note]


@given(st.lists(changes, max_size=10))
def test_the_revision_counts_real_changes(asked):
    """It grows by one with each document that differs, and only then."""
    document = START
    for each in asked:
        new = stored(document, each, PLAIN)
        assert (new is document) == (new == document)
        assert new.revision == document.revision + (new is not document)
        document = new


@given(st.lists(changes, max_size=10))
def test_a_change_touches_its_stage_alone(asked):
    """Other stages stay unchanged."""
    document = after(START, [each for each in asked if getattr(each, "stage", "s") == "s"])
    assert document.stages["t"] == START.stages["t"]


def test_each_change_does_what_it_says():
    """Each change has its effect on the configured state."""
    assert change(START, SetListening("s", False), PLAIN).stages["s"].listening is False
    assert change(START, SetRunning("s", False), PLAIN).stages["s"].running is False
    stopped = change(START, SetWorking("s", False), PLAIN).stages["s"]
    assert (stopped.working, stopped.consumers) == (False, 2)
    assert change(START, SetConsumers("s", 5), PLAIN).stages["s"].consumers == 5
    limited = change(START, SetLimits("s", 1.0, 2.0), PLAIN).stages["s"]
    assert (limited.soft_limit, limited.hard_limit) == (1.0, 2.0)
    assert change(START, SetLogLevel("debug"), PLAIN).log_level == "debug"


def test_parameters_and_code_are_versioned_together():
    """New parameters are a new generation of the same code; a reload is a new generation of both."""
    begun = START.stages["s"]
    new = change(START, SetParams("s", {"a": 1}), PLAIN).stages["s"]
    assert (new.generation, new.code) == (begun.generation + 1, begun.code)
    assert [(version.generation, version.params) for version in new.history] == [(begun.generation, {})]
    loaded = after(START, [reload(A)]).stages["s"]
    assert (loaded.generation, loaded.code, loaded.copy) == (begun.generation + 1, begun.generation + 1, A)
    assert loaded.history == (), "it is the same code"
    other = after(START, [reload(B)]).stages["s"]
    assert [(version.generation, version.copy) for version in other.history] == [(begun.generation, A)]


def went_back(document, generation=None):
    version = earlier(document.stages["s"], generation)
    return None if version is None else change(document, GoBack("s", version), PLAIN)


def test_a_rollback_brings_back_jobs_parameters_and_code():
    """As one new generation, which needs new Consumers only if jobs or code differ."""
    document = after(START, [SetParams("s", {"n": 1}), reload(B), SetParams("s", {"n": 2})])
    last = document.stages["s"]
    parameters = went_back(document).stages["s"]
    assert (parameters.params, parameters.copy, parameters.code) == ({"n": 1}, B, last.code)
    code = went_back(document, last.generation - 2).stages["s"]
    assert (code.params, code.copy, code.jobs) == ({"n": 1}, A, links(["a:b"]))
    assert (code.generation, code.code, code.of) == (last.generation + 1, last.generation + 1, last.generation - 2)
    assert went_back(document, 99) is None


def test_rollbacks_of_generations_go_further_back_and_not_to_and_fro():
    """Each leads to an older one that differs from the present, until there is none."""
    document, seen = after(START, [reload(B), SetParams("s", {"n": 1}), reload(C)]), []
    while document is not None:
        stage = document.stages["s"]
        seen.append((stage.params, stage.copy))
        document = went_back(document)
    assert seen == [({"n": 1}, C), ({"n": 1}, B), ({}, B), ({}, A)]


def test_a_generation_whose_code_was_not_kept_is_none_to_go_back_to():
    """It was unversioned, or was stored by a version of mqworker that kept parameters only."""
    document = after(START, [reload(None), SetParams("s", {"n": 1})])
    unversioned = document.stages["s"].history[-1]
    assert (unversioned.copy, earlier(document.stages["s"], unversioned.generation)) == (None, None)
    assert earlier(document.stages["s"], None).copy == A
    old = Version(1, {})
    assert earlier(msgspec.structs.replace(START.stages["s"], generation=5, history=(old,)), None) is None


def test_what_a_rollback_chose_outlives_a_start_until_the_folder_changes():
    """The code in the folder, which was the reason to go back, does not come back by itself; other code does."""
    chosen = went_back(after(START, [reload(B)]))
    again, told = begin(chosen, PLAIN, found(B))
    assert (again.stages["s"].copy, told) == (A, [])
    again, told = begin(again, PLAIN, found(C))
    assert again.stages["s"].copy == C
    words = "the code in the folder has changed: the code in the folder takes its place"
    assert told == [f"stage s: {words}, with the configured jobs and parameters instead of a:b with {{}}"]
    assert again.stages["s"].history[-1].copy == A
    reloaded = after(chosen, [reload(B)])
    assert begin(reloaded, PLAIN, found(B))[0].stages["s"].copy == B


def test_another_chain_is_a_generation_that_holds_until_the_configured_one_changes():
    """It needs new Consumers only if other jobs run; the file wins once it names others."""
    jobs = edited(START.stages["s"].jobs, Add("c:d"))
    document = change(START, SetJobs("s", jobs, {}), PLAIN)
    stage = document.stages["s"]
    assert (stage.jobs, stage.code, stage.generation) == (jobs, 2, 2)
    assert change(document, SetJobs("s", jobs, {}), PLAIN) is document
    again, told = begin(document, PLAIN, found(A))
    assert (again.stages["s"].jobs, told) == (jobs, [])
    other = Config(stages=PLAIN.stages | {"s": msgspec.structs.replace(PLAIN.stages["s"], jobs=("e:f",))})
    again, told = begin(document, other, found(A))
    assert (again.stages["s"].jobs, len(told)) == (links(["e:f"]), 1)
    renamed = change(
        document, SetJobs("s", [msgspec.structs.replace(each, name=each.name * 2) for each in jobs], {}), PLAIN
    )
    assert renamed.stages["s"].code == stage.code
    assert went_back(document).stages["s"].jobs == links(["a:b"])


def test_jobs_that_a_rollback_chose_hold_until_the_configured_ones_change():
    """As every live value."""
    other = msgspec.structs.replace(PLAIN.stages["s"], jobs=("c:d",))
    changed = Config(stages=PLAIN.stages | {"s": other})
    document, _ = begin(START, changed, found(A))
    assert document.stages["s"].jobs == links(["c:d"])
    back = earlier(document.stages["s"], None)
    document = change(document, GoBack("s", back), changed)
    assert document.stages["s"].jobs == links(["a:b"])
    assert begin(document, changed, found(A))[0].stages["s"].jobs == links(["a:b"])
    third = Config(stages=PLAIN.stages | {"s": msgspec.structs.replace(other, jobs=("e:f",))})
    document, told = begin(document, third, found(A))
    assert (document.stages["s"].jobs, len(told)) == (links(["e:f"]), 1)


def test_what_came_with_a_rollback_goes_with_its_code():
    """Other code in the folder, or a copy that is gone: jobs and parameters are the configured ones again."""
    both = change(START, SetJobs("s", edited(START.stages["s"].jobs, Add("c:d")), {"n": 1}), PLAIN)
    chosen = went_back(after(both, [reload(B), SetJobs("s", links(["x:y"]), {})]), 2)
    stage = chosen.stages["s"]
    assert (stage.params, len(stage.jobs), stage.copy) == ({"n": 1}, 2, A)
    for what, words in ((found(C), "has changed"), (found(B, chosen=False), "is gone")):
        document, told = begin(chosen, PLAIN, what)
        begun = document.stages["s"]
        assert (begun.params, begun.jobs, begun.copy) == ({}, links(["a:b"]), what["s"].folder)
        assert [words in each for each in told] == [True]
    later = change(chosen, SetParams("s", {"n": 5}), PLAIN)
    document, _ = begin(later, PLAIN, found(C))
    assert document.stages["s"].params == {"n": 5}, "it was set after the rollback"


def test_code_that_is_not_known_changes_nothing():
    """A full disk, or a check that could not begin: what a rollback chose stays."""
    chosen = went_back(after(START, [reload(B)]))
    document, told = begin(chosen, PLAIN, found(None))
    assert (document.stages["s"].copy, told) == (A, [])
    assert begin(document, PLAIN, found(C))[0].stages["s"].copy == C


def test_live_jobs_that_are_not_in_the_code_give_way_to_the_configured_ones():
    """A deployment without a function that was added live does not keep the service from starting."""
    live = change(START, SetJobs("s", edited(START.stages["s"].jobs, Add("c:d")), {}), PLAIN)
    document, told = begin(live, PLAIN, found(B, jobs=False))
    assert (document.stages["s"].jobs, document.stages["s"].copy) == (links(["a:b"]), B)
    assert told == ["stage s: jobs that were set live are not in the code: what is configured takes their place"]
    live = change(START, SetParams("s", {"gone": 1}), PLAIN)
    document, told = begin(live, PLAIN, {"s": FoundCode(B, params=False), "t": FoundCode(A)})
    assert (document.stages["s"].params, document.stages["s"].configured) == ({}, {})
    assert told == [
        "stage s: the code does not accept the parameters that were set live: what is configured takes their place"
    ]


def test_rollbacks_of_parameters_and_of_generations_do_not_hide_each_other():
    """After a rollback of parameters the generation before is the one that was left."""
    document = after(START, [SetParams("s", {"v": 1}), reload(B), SetParams("s", {"v": 2})])
    left = document.stages["s"]
    document = change(document, rollback(document, "s"), PLAIN)
    assert (document.stages["s"].params, document.stages["s"].params_of) == ({"v": 1}, left.generation - 1)
    back = went_back(document).stages["s"]
    assert (back.params, back.copy, back.of) == ({"v": 2}, B, left.generation)


def test_code_and_the_parameters_that_go_with_it_are_one_generation():
    """A renamed parameter: neither the old code nor the new one would accept both; and both go back together."""
    document = after(START, [SetParams("s", {"old": 1})])
    document = change(document, Reload("s", B, {"new": 2}), PLAIN)
    stage = document.stages["s"]
    assert (stage.params, stage.copy, stage.generation, stage.configured["params"]) == ({"new": 2}, B, 3, {})
    back = went_back(document).stages["s"]
    assert (back.params, back.copy) == ({"old": 1}, A)


def test_true_and_one_are_different_parameters():
    """A job that receives them can tell."""
    document = change(START, SetParams("s", {"n": 1}), PLAIN)
    assert change(document, SetParams("s", {"n": True}), PLAIN).stages["s"].params["n"] is True
    assert change(document, SetParams("s", {"n": 1}), PLAIN) is document


def test_a_disabled_job_needs_new_consumers():
    """So does an enabled one; both can be taken back."""
    two = change(START, SetJobs("s", edited(START.stages["s"].jobs, Add("c:d")), {}), PLAIN)
    less = change(two, SetJobs("s", edited(two.stages["s"].jobs, Alter("d", enabled=False)), {}), PLAIN)
    assert less.stages["s"].code == less.stages["s"].generation
    assert went_back(less).stages["s"].jobs == two.stages["s"].jobs


def test_new_code_at_a_start_is_a_generation_to_go_back_from():
    """The code of before is in the history; the same code adds nothing to it."""
    same, _ = begin(START, PLAIN, found(A))
    assert same.stages["s"].history == ()
    new, _ = begin(same, PLAIN, found(B))
    assert [(version.copy, version.generation) for version in new.stages["s"].history] == [
        (A, same.stages["s"].generation)
    ]
    assert set(copies(new)) == {A, B}


def test_rollbacks_go_further_back_and_not_to_and_fro():
    """From the third version to the second, to the first, and no further; a new version is rolled back to those."""
    document = after(START, [SetParams("s", {"version": number}) for number in (1, 2, 3)])
    seen = []
    while (back := rollback(document, "s")) is not None:
        document = change(document, back, PLAIN)
        seen.append(document.stages["s"].params)
    assert seen == [{"version": 2}, {"version": 1}, {}]
    document = after(document, [SetParams("s", {"version": 4}), reload(A)])
    document, _ = begin(document, PLAIN)  # neither a reload nor a restart counts as a version
    document = change(document, rollback(document, "s"), PLAIN)
    assert document.stages["s"].params == {}
    document, _ = begin(document, PLAIN)
    assert rollback(document, "s") is None


@given(st.lists(st.integers(0, 3) | st.sampled_from(["back", "restart", "reload"]), max_size=30))
def test_however_often_it_is_rolled_back_each_step_is_older(events):
    """Between two changes, rollbacks lead from newer to older parameters, each different from those before."""
    document, row = START, []
    for event in events:
        match event:
            case "restart":
                document, _ = begin(document, PLAIN)
            case "reload":
                document = after(document, [reload(A)])
            case "back":
                if (back := rollback(document, "s")) is not None:
                    assert back.params != document.stages["s"].params
                    document = change(document, back, PLAIN)
                    row.append(document.stages["s"].params_of)
            case _:
                document, row = change(document, SetParams("s", {"n": event}), PLAIN), []
        assert row == sorted(set(row), reverse=True)


def test_the_history_is_bounded():
    """The newest parameters are kept for a rollback."""
    document = after(START, [SetParams("s", {"n": n}) for n in range(1, HISTORY + 10)])
    history = document.stages["s"].history
    assert len(history) == HISTORY
    assert history[-1].params == {"n": HISTORY + 8}


# --- a new start


@given(configs, st.lists(changes, max_size=6))
def test_a_start_with_the_same_configuration_keeps_every_live_value(with_config, asked):
    """Only the generation increases, because the code may have changed; nothing needs reporting."""
    first, _ = begin(None, with_config)
    old = after(first, asked, with_config)
    new, told = begin(old, with_config)
    assert told == []
    assert new.revision == old.revision + 1
    assert new.log_level == old.log_level
    for name, stage in new.stages.items():
        was = old.stages[name]
        assert stage == msgspec.structs.replace(was, generation=was.generation + 1, code=was.generation + 1)


def test_a_document_without_jobs_and_code_is_taken_over():
    """As the versions before stored it: nothing of it is a live value, and it can be rolled back to its parameters."""
    stored = {"params": {"n": 2}, "generation": 7, "code": 3, "history": [{"generation": 6, "params": {"n": 1}}]}
    old = msgspec.convert({"revision": 4, "stages": {"s": stored | {"configured": {"params": {}}}}}, Document)
    document, told = begin(old, PLAIN, found(A))
    stage = document.stages["s"]
    assert (stage.params, stage.jobs, stage.copy, stage.generation, told) == ({"n": 2}, links(["a:b"]), A, 8, [])
    assert rollback(document, "s").params == {"n": 1}
    assert earlier(stage, None) is None


@given(configs, configs, st.lists(settings_changes, max_size=6), configs)
def test_a_live_value_holds_until_the_configured_one_changes(one, other, asked, third):
    """Then the file wins, which is reported; a value never set live follows the file silently."""
    first, _ = begin(None, one)
    old = after(first, asked, one)
    new, told = begin(old, other)
    keys = {"consumers", "soft_limit", "hard_limit", "params"}
    for name, stage in new.stages.items():
        was, now, then = old.stages[name], other.stages[name], one.stages[name]
        in_file = {
            "consumers": (then.consumers, now.consumers),
            "soft_limit": (then.time_limit.soft, now.time_limit.soft),
            "hard_limit": (then.time_limit.hard, now.time_limit.hard),
            "params": (then.params, now.params),
        }
        for key in keys:
            live = key in was.configured
            holds = live and in_file[key][0] == in_file[key][1]
            assert value_of(stage, key) == (value_of(was, key) if holds else in_file[key][1])
            assert (key in stage.configured) == holds
            said = any(words.startswith(f"stage {name}: {key} ") for words in told)
            assert said == (live and not holds)
    assert any(words.startswith("log_level") for words in told) == (
        bool(old.configured_log_level) and old.configured_log_level != other.service.log_level
    )
    again, _ = begin(old, third)
    assert again.revision == old.revision + 1


def test_switches_outlive_the_process():
    """What was stopped stays stopped after a restart, whatever the configuration."""
    old = after(START, [SetListening("s", False), SetWorking("s", False), SetRunning("s", False)])
    stage = begin(old, config(consumers=9))[0].stages["s"]
    assert (stage.listening, stage.working, stage.running) == (False, False, False)


def test_stages_come_and_go_with_the_configuration():
    """A stage that is no longer configured is forgotten."""
    less = Config(stages={"s": PLAIN.stages["s"]})
    document, _ = begin(after(START, [SetConsumers("t", 9)]), less)
    assert list(document.stages) == ["s"]
    assert begin(document, PLAIN)[0].stages["t"].consumers == 2


def test_a_stage_that_does_not_run_this_time_keeps_everything():
    """A part of the stages runs, twice in a row and the other part too: live values, numbers and copies are kept."""
    old = after(START, [SetConsumers("t", 9), SetParams("t", {"a": 1}), Reload("t", B, {"a": 2})])
    s, t = (Config(stages={name: PLAIN.stages[name]}) for name in "st")
    part = begin(old, s, elsewhere="t")[0]
    assert (list(part.stages), part.elsewhere) == (["s"], {"t": old.stages["t"]})
    assert set(copies(part)) >= set(copies(old))
    part = begin(change(part, SetConsumers("s", 5), s), s, elsewhere="t")[0]
    other = begin(part, t, elsewhere="s")[0]
    assert (other.stages["t"].consumers, other.elsewhere) == (9, {"s": part.stages["s"]})
    whole = begin(other, PLAIN)[0]
    assert (whole.stages["s"].consumers, whole.stages["t"].consumers, whole.elsewhere) == (5, 9, {})
    assert whole.stages["t"].history == begin(old, PLAIN)[0].stages["t"].history
    assert begin(part, s)[0].elsewhere == {}, "what has left the configuration is forgotten"


def test_parameters_changed_in_the_file_can_be_rolled_back():
    """The previous parameters are in the history."""
    new, told = begin(change(START, SetParams("s", {"a": 1}), PLAIN), config(params={"b": 2}))
    assert new.stages["s"].params == {"b": 2}
    assert new.stages["s"].history[-1].params == {"a": 1}
    assert len(told) == 1


# --- the file

LIVE = after(START, [SetParams("s", {"grüße": [1, 2.5, None, "x"]}), SetConsumers("t", 7), SetLogLevel("debug")])


@given(st.lists(changes, max_size=5))
def test_a_document_is_read_as_it_was_written(tmp_path_factory, asked):
    """Loading inverts saving."""
    store = Store(tmp_path_factory.getbasetemp() / "state.json")
    document = after(LIVE, asked)
    store.save(document)
    assert store.load() == (document, "")


def test_no_file_is_no_damage(tmp_path):
    """The first start has nothing to report."""
    assert Store(tmp_path / "state.json").load() == (None, "")


def test_a_file_torn_at_any_byte_is_put_aside(tmp_path):
    """Wherever it is cut, it is kept beside and named, and the service starts with the configured state."""
    path = tmp_path / "state.json"
    Store(path).save(LIVE)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        document, told = Store(path).load()
        assert document is None, end
        assert "state.damaged" in told
        assert not path.exists()
        assert (tmp_path / "state.damaged").read_bytes() == whole[:end]


@given(st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=200)
def test_a_file_with_any_byte_changed_is_read_or_put_aside(tmp_path_factory, place, byte):
    """No damage prevents the service from starting, or gives it a document with wrong types."""
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    Store(path).save(LIVE)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data)
    document, told = Store(path).load()
    if document is None:
        assert told
        assert not path.exists()
    else:
        assert msgspec.convert(msgspec.to_builtins(document), Document) == document
        begin(document, PLAIN)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"[" * 100_000, b"\xff", b'{"revision": "1"}', b'{"log_level": "loud"}', b"{}{}"]
)
def test_what_is_no_document_is_put_aside(tmp_path, content):
    """Any content at all is set aside without an error."""
    path = tmp_path / "state.json"
    path.write_bytes(content)
    document, told = Store(path).load()
    assert document is None
    assert told
    assert (tmp_path / "state.damaged").read_bytes() == content


@pytest.mark.parametrize("what", ["a folder", "a loop of links", "damage that cannot be put aside"])
def test_what_cannot_be_read_is_an_os_error(tmp_path, what):
    """It is neither taken for no file nor for damage: the start is refused with the reason."""
    path = tmp_path / "state.json"
    match what:
        case "a folder":
            path.mkdir()
        case "a loop of links":
            path.symlink_to(path)
        case _:
            path.write_bytes(b"{")
            (tmp_path / "state.damaged").mkdir()
    with pytest.raises(OSError, match=r"[Dd]irectory|links"):
        Store(path).load()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    """A full disk raises OSError; the stored document is still there, with nothing half written beside it."""
    path = tmp_path / "state.json"
    store = Store(path)
    store.save(START)
    limits_before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits_before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            store.save(LIVE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits_before)
    assert store.load() == (START, "")
    assert list(tmp_path.iterdir()) == [tmp_path / "state.json"]
    store.save(LIVE)
    assert store.load() == (LIVE, "")


def test_a_save_killed_before_its_end_leaves_the_old_file(tmp_path):
    """The document is replaced as a whole: a half-written neighbour is never read."""
    store = Store(tmp_path / "state.json")
    store.save(START)
    (tmp_path / "state.new").write_bytes(b'{"revision": 7')
    assert store.load() == (START, "")
    store.save(LIVE)
    assert store.load() == (LIVE, "")


def test_the_file_is_private_and_follows_no_link(tmp_path):
    """Only the user can read the parameters; a planted link is refused."""
    store = Store(tmp_path / "state.json")
    store.save(START)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "state.new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        store.save(LIVE)
    assert not (tmp_path / "elsewhere").exists()
