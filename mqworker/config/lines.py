"""Finds the line of each key in a TOML text, because the standard library's parser does not report it.

Pure. Expects text that parses; understands tables, dotted and quoted keys. A key inside an inline table or an array
gets the line on which the table or array begins.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import NamedTuple

from mqworker.config.errors import Key

_TOKEN = re.compile(
    r'''
    """(?:\\.|[^\\])*?"""(?:"{0,2})   # multi-line texts may end with up to two quotes
    | \'\'\'.*?\'\'\'(?:'{0,2})
    | "(?:\\.|[^"\\\n])*"
    | '[^'\n]*'
    | \#[^\n]*
    | [A-Za-z0-9_-]+
    | \n
    | [^ \t\r]
    ''',
    re.VERBOSE | re.DOTALL,
)
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


class _Token(NamedTuple):
    text: str
    line: int


def key_lines(text: str) -> dict[Key, int]:
    """Map every key and table of `text` to its line, counted from 1."""
    found: dict[Key, int] = {}
    table: Key = ()
    for statement in _statements(text):
        line = statement[0].line
        if statement[0].text == "[":
            table = _key(token for token in statement if token.text not in "[]")
            whole = table
        else:
            whole = table + _key(takewhile(lambda token: token.text != "=", statement))
        for length in range(1, len(whole)):
            found.setdefault(whole[:length], line)
        found[whole] = line
    return found


def _statements(text: str) -> Iterator[list[_Token]]:
    """Split the text into table headers and assignments: each ends at the end of its line, except inside brackets."""
    line, depth = 1, 0
    statement: list[_Token] = []
    for piece in _TOKEN.findall(text):
        if piece == "\n" and depth == 0 and statement:
            yield statement
            statement = []
        elif piece != "\n" and not piece.startswith("#"):
            statement.append(_Token(piece, line))
            depth += _STEP.get(piece, 0)
        line += piece.count("\n")
    if statement:
        yield statement


def _key(tokens: Iterable[_Token]) -> Key:
    parts = (token.text for token in tokens if token.text != ".")
    return tuple(tomllib.loads(f"k = {part}")["k"] if part[0] in "\"'" else part for part in parts)
