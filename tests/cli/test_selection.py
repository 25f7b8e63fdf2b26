"""Filters of the command line."""

import click
import pytest
from click.testing import CliRunner

from mqworker.cli.dlq import dlq
from mqworker.cli.selection import ALIASES, NAMES, parsed
from mqworker.exits import Exit
from mqworker.ipc.admin_messages import LetterFilter


def test_filters_are_those_of_the_api():
    """Each name is a field of the API's filter; values may have any sign in them, numbers are numbers."""
    asked = (
        "type=ValueError",
        "header=a=b",
        "place=jobs.py:1 in f",
        "attempt=3",
        "generation=-1",
        "text=x y",
        "message=m-1",
    )
    assert parsed(asked, "error") == {
        "reason": "error",
        "error_type": "ValueError",
        "header": "a=b",
        "place": "jobs.py:1 in f",
        "attempt": 3,
        "generation": -1,
        "text": "x y",
        "message_id": "m-1",
    }
    fields = set(LetterFilter.__struct_fields__)
    assert {ALIASES.get(name, name) for name in NAMES} == fields - {"ids", "limit"}


@pytest.mark.parametrize("name", [*NAMES, *ALIASES.values()])
def test_an_empty_filter_is_a_usage_error(name):
    """`message="$ID"` with an unset variable does not select all dead letters, whichever the filter."""
    with pytest.raises(click.UsageError, match=f"--filter {name}= has no value"):
        parsed(("type=ValueError", f"{name}="))


@pytest.mark.parametrize("verb", [("drop", "--yes"), ("replay",), ("export",)])
@pytest.mark.parametrize("empty", [("--reason", ""), ("--filter", "message="), ("--reason", "", "--all")])
def test_a_verb_with_an_empty_filter_touches_no_letter(verb, empty):
    """It ends as a usage error before it asks the service for anything."""
    done = CliRunner().invoke(dlq, [*verb, "--stage", "work", "--socket", "/nonexistent", *empty])
    assert (done.exit_code, "has no value" in done.output) == (Exit.USAGE, True), done.output


@pytest.mark.parametrize("wrong", ["reason", "=x", "color=red", "attempt=many", "generation=x"])
def test_a_wrong_filter_is_a_usage_error(wrong):
    """The sentence has what was typed."""
    with pytest.raises(click.UsageError, match=wrong):
        parsed((wrong,))
