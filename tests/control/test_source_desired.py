"""The desired state of sources: what a start, a stop and other code make of it."""

import msgspec

from mqworker.config.model import Config, InputConfig, SourceConfig, StageConfig
from mqworker.control import desired_state
from mqworker.control.desired_state import Document, SetSource
from mqworker.control.source_desired import FoundSource, SourceCode
from mqworker.ipc.generation import CodeCopy

OLD, NEW = CodeCopy("old", "/f"), CodeCopy("new", "/f")


def config(job: str = "m:rows", **params) -> Config:
    stage = StageConfig(input=InputConfig(queue="in"), jobs=("m:f",))
    return Config(stages={"work": stage}, sources={"rows": SourceConfig(job=job, into="work", params=params)})


def begun(old: Document | None = None, found: FoundSource | None = None, **more) -> Document:
    sources = {} if found is None else {"rows": found}
    return desired_state.begin(old, config(**more), sources=sources)[0]


def test_it_runs_the_code_that_was_found():
    """From the first start on, and its copy is kept."""
    document = begun(found=FoundSource(OLD))
    assert document.sources["rows"].code == SourceCode("m:rows", {}, OLD)
    assert document.sources["rows"].running
    assert OLD in desired_state.copies(document)
    again = begun(document, FoundSource(NEW), last=5)
    assert again.sources["rows"].code == SourceCode("m:rows", {"last": 5}, NEW)


def test_what_is_refused_leaves_the_code_of_before():
    """With its parameters and its name, and the reason."""
    document = begun(begun(found=FoundSource(OLD)), FoundSource(NEW, "it is broken"), job="m:other", last=5)
    assert document.sources["rows"].code == SourceCode("m:rows", {}, OLD)
    assert document.sources["rows"].refused == "it is broken"


def test_a_source_that_was_stopped_stays_so():
    """Over a start of the service; a change that changes nothing has no revision."""
    first = begun(found=FoundSource(OLD))
    stopped = desired_state.change(first, SetSource("rows", running=False), config())
    assert stopped.revision == first.revision + 1
    assert desired_state.change(stopped, SetSource("rows", running=False), config()) is stopped
    assert not begun(stopped, FoundSource(OLD)).sources["rows"].running
    code = SourceCode("m:rows", {}, NEW)
    started = desired_state.change(stopped, SetSource("rows", running=True, code=code), config())
    assert (started.sources["rows"].running, started.sources["rows"].code) == (True, code)


def test_other_code_ends_a_refusal_and_a_stop_does_not():
    """What is refused is told until something else is taken."""
    first = begun(found=FoundSource(OLD))
    refused = desired_state.change(first, SetSource("rows", running=True, refused="no"), config())
    assert refused.sources["rows"].code.copy == OLD
    stopped = desired_state.change(refused, SetSource("rows", running=False), config())
    assert stopped.sources["rows"].refused == "no"
    taken = desired_state.change(stopped, SetSource("rows", running=True, code=first.sources["rows"].code), config())
    assert taken.sources["rows"].refused == ""


def test_a_source_that_is_gone_from_the_configuration_is_forgotten():
    """Unless only a part of the stages runs this time."""
    document = begun(found=FoundSource(OLD))
    without = Config(stages=config().stages)
    assert desired_state.begin(document, without)[0].sources == {}
    assert list(desired_state.begin(document, without, elsewhere=["others"])[0].sources) == ["rows"]


def test_a_document_of_an_earlier_version_has_no_sources():
    """It is read all the same."""
    assert msgspec.json.decode(b'{"revision": 3}', type=Document).sources == {}
