"""The lines of keys in TOML texts."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.lines import key_lines

ORDINARY = '''\
# a comment = 1
top = 1
a.b = 2   # dotted = 3

[table]
text = """
[not.a.table]
not_a_key = 1
ends in quotes"""""
literal = \'\'\'
x = 1\'\'\'
list = [
  "a = 1",  # ]
  { inline = 1 },
]
"quoted key" = "# = ["
'single.quoted' = '\\'
[ "stages" . 'A.b' ]
input = "x"
[stages."A.b".output]
queue = "y"
inline = { a = 1, b = { c = 2 } }
[[many]]
x = 1
'''


def test_ordinary_file():
    """Tables, dotted and quoted keys get their own line, whatever the texts and lists contain."""
    assert key_lines(ORDINARY) == {
        ("top",): 2,
        ("a",): 3,
        ("a", "b"): 3,
        ("table",): 5,
        ("table", "text"): 6,
        ("table", "literal"): 10,
        ("table", "list"): 12,
        ("table", "quoted key"): 16,
        ("table", "single.quoted"): 17,
        ("stages",): 18,
        ("stages", "A.b"): 18,
        ("stages", "A.b", "input"): 19,
        ("stages", "A.b", "output"): 20,
        ("stages", "A.b", "output", "queue"): 21,
        ("stages", "A.b", "output", "inline"): 22,
        ("many",): 23,
        ("many", "x"): 24,
    }
    tomllib.loads(ORDINARY)


def test_windows_line_ends():
    """A file with Windows line ends has the same lines."""
    assert key_lines(ORDINARY.replace("\n", "\r\n")) == key_lines(ORDINARY)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'


KEY = st.from_regex(r"[A-Za-z0-9_-]{1,5}", fullmatch=True) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
).map(quoted)
VALUE = st.sampled_from(
    ["1", "-1.5e3", "'#'", '"\\"]"', "[\n1, # ]\n]", '"""\na = 1\n"""', "{ a = 1 }", "1979-05-27T07:32:00Z"]
)


@given(st.lists(st.tuples(st.lists(KEY, min_size=1, max_size=3), VALUE | st.none()), max_size=8))
def test_every_key_of_any_file_has_its_line(statements):
    """In any text that parses, each statement's key has the line on which the statement starts."""
    text, expected, table = "", {}, ()
    for parts, value in statements:
        names = tuple(tomllib.loads(f"{part} = {quoted(part)}").popitem()[0] for part in parts)
        line = text.count("\n") + 1
        if value is None:
            table = names
            text += f"[{'.'.join(parts)}]\n"
            expected[names] = line
        else:
            text += f"{' . '.join(parts)} = {value}\n"
            expected[table + names] = line
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = key_lines(text)
    assert {key: found[key] for key in expected} == expected
