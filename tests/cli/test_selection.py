"""Filters of the command line."""

import click
import pytest

from mqworker.cli.selection import ALIASES, NAMES, parsed
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


@pytest.mark.parametrize("wrong", ["reason", "=x", "color=red", "attempt=many", "generation="])
def test_a_wrong_filter_is_a_usage_error(wrong):
    """The sentence has what was typed."""
    with pytest.raises(click.UsageError, match=wrong):
        parsed((wrong,))
