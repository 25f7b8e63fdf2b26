"""The chain of jobs: what each change makes of it, and what cannot be made."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.model import ProgramConfig
from mqworker.control.chain import (
    Add,
    Alter,
    ChainError,
    ChainLink,
    NewChainLink,
    Remove,
    Replace,
    edited,
    enabled,
    links,
)

ABC = links(["m:a", "m:b", "m:c"])


def names(chain) -> str:
    """Return a chain in short: the disabled ones in parentheses."""
    return " ".join(link.name if link.enabled else f"({link.name})" for link in chain)


@pytest.mark.parametrize(
    ("edit", "after"),
    [
        (Add("m:d"), "a b c d"),
        (Add("m:d", at=1), "d a b c"),
        (Add("m:d", at=4), "a b c d"),
        (Add("m:a"), "a b c a-2"),
        (Add("m:a", name="again", at=2), "a again b c"),
        (Add("n:Class.method"), "a b c Class.method"),
        (Remove("b"), "a c"),
        (Alter("b", enabled=False), "a (b) c"),
        (Alter("b", enabled=True), "a b c"),
        (Alter("c", at=1), "c a b"),
        (Alter("a", at=3), "b c a"),
        (Alter("a", at=2, enabled=False), "b (a) c"),
        (Alter("a"), "a b c"),
        (Replace(["m:x", NewChainLink("m:y", name="why", enabled=False), "m:x"]), "x (why) x-2"),
    ],
)
def test_each_change_has_its_effect(edit, after):
    """Places count from 1; names are those of the functions, with a number where one is taken."""
    assert names(edited(ABC, edit)) == after
    assert names(ABC) == "a b c"


@pytest.mark.parametrize(
    ("edit", "field", "words"),
    [
        (Add("m:d", name="a"), "name", "there is a job with the name a"),
        (Add("m:d", at=5), "at", "there is no place 5: the last one is 4"),
        (Alter("a", at=4), "at", "there is no place 4: the last one is 3"),
        (Alter("x", enabled=True), "name", "there is no job 'x' in the chain; there is a, b, c"),
        (Remove("x"), "name", "there is no job 'x'"),
        (Replace([NewChainLink("m:a", enabled=False)]), "jobs", "at least one job must stay enabled"),
        (Replace([]), "jobs", "at least one job must stay enabled"),
        (Replace([NewChainLink("m:a", name="x"), NewChainLink("m:b", name="x")]), "jobs", "two jobs have the name x"),
    ],
)
def test_what_cannot_be_made_is_named(edit, field, words):
    """The error has the field and says what there is."""
    with pytest.raises(ChainError, match=words) as caught:
        edited(ABC, edit)
    assert caught.value.field == field


def test_the_last_enabled_job_stays():
    """It can be neither removed nor disabled."""
    one = edited(edited(ABC, Alter("a", enabled=False)), Remove("b"))
    assert (names(one), enabled(one)) == ("(a) c", ["m:c"])
    for edit in (Remove("c"), Alter("c", enabled=False)):
        with pytest.raises(ChainError):
            edited(one, edit)


@given(st.lists(st.sampled_from(["m:a", "m:b", "n:a", "m:Ä", "m:_x", "m:" + "l" * 80]), min_size=1, max_size=8))
def test_names_are_unique_and_fit_an_address(jobs):
    """Whatever the jobs are called, and however often one occurs; the order is kept."""
    chain = links(jobs)
    assert [link.job for link in chain] == jobs
    assert len({link.name for link in chain}) == len(jobs)
    for link in chain:
        assert link.name.isascii()
        assert 1 <= len(link.name) <= 64
        assert "/" not in link.name
        assert edited([*chain, ChainLink("m:z", "z")], Remove(link.name))


def test_programs_are_links_as_jobs_are():
    """They have the configured name, else that of their file; they are moved, disabled and stored as text."""
    programs = [
        ProgramConfig(exec=command) for command in (("./a b/solve.sh", "-x"), ("awk", "1"), ("./x/awk",), ("..",))
    ]
    chain = links([ProgramConfig(exec=("./solve.sh",), name="first"), "m:f", *programs])
    assert [link.name for link in chain] == ["first", "f", "solve.sh", "awk", "awk-2", "job"]
    assert chain[0].job == 'exec:["./solve.sh"]'
    moved = edited(edited(chain, Alter("first", at=3)), Alter("awk", enabled=False))
    assert enabled(moved)[:3] == ["m:f", 'exec:["./a b/solve.sh","-x"]', 'exec:["./solve.sh"]']
    assert edited(chain, Replace([NewChainLink(link.job, link.name) for link in chain])) == chain
    stored = msgspec.json.encode(chain)
    assert msgspec.json.decode(stored, type=list[ChainLink]) == chain
    for text in ('exec:["a"]x', "exec:", "exec:[]\n", 'm:["a"]'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"job": text, "name": "n"}, ChainLink)
