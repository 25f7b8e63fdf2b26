"""Writes docs/configuration.md from the structs: `python -m mqworker.config.docs > docs/configuration.md`.

Pure; a test compares the committed page with `page()`.
"""

import sys

import msgspec
from msgspec.structs import FieldInfo

from mqworker.config import schema
from mqworker.config.errors import Key, dotted, render
from mqworker.config.model import Config

_HEAD = """\
# Configuration

<!-- Generated from mqworker/config/model.py: python -m mqworker.config.docs > docs/configuration.md -->

One TOML file, `mqworker.toml` in the working directory unless `--config` or `MQWORKER_CONFIG` names another. Each
source overrides the one before: default, file, environment, flags. `mqworker config show --origin` shows where each
value came from; `mqworker check` reports every error at once.

```toml
[broker]
url = "amqp://guest:guest@localhost/%2F"        # without a url: an embedded broker in state_dir

[stages.energy]
input = "energy.in"
jobs = ["energy_storage:optimise"]
output = { queue = "energy.out" }
```

**Environment.** Every key is also a variable: `MQWORKER_`, then its parts in capitals, joined by two underscores,
such as `MQWORKER_BROKER__URL` or `MQWORKER_STAGES__ENERGY__CONSUMERS`; in a stage's name `-` and `.` become `_`.
A text is taken verbatim, anything else is a TOML value (`4`, `[1, 2]`, `{ base = 2 }`); a list may also be
separated by commas (`1, 2`). A stage that is not in the file is defined by its `INPUT` variable; a shared object
has to be in the file. `MQWORKER_STAGES__ENERGY__PARAMS__CAPACITY` sets one parameter. An unknown variable that begins
with `MQWORKER_` is an error.

**Secrets.** A text may also come from a file, named by the same variable with `_FILE` appended
(`MQWORKER_CONTROL__TOKEN_FILE=/run/secrets/token`); one trailing newline is removed. Other users must have no access
to a file that holds a token, the broker URL or a `pickle_key` (mode 0600 or 0400). Secrets are never printed or
logged.

**Paths** are relative to the folder of the configuration file, or to the working directory without one; files
named by `_FILE` variables are always relative to the working directory.
"""


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for field in schema.fields(Config).values():
        named = schema.named_tables(field.type)
        table = named[1] if named else schema.table_of(field.type)
        assert table
        parts.append(_section((field.name, "NAME") if named else (field.name,), table))
    return "\n".join(parts)


def _section(at: Key, table: schema.Struct) -> str:
    _title, _, meaning = (table.__doc__ or "").partition(": ")
    lines = [
        f"## `[{dotted(at)}]`",
        "",
        f"{meaning[:1].upper()}{meaning[1:]}",
        "",
        "| key | must be | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, field in schema.keys({}, table):
        if schema.table_of(field.type) and not field.required and field.default is not None:
            continue  # its keys follow as rows of their own
        meaning, _ = schema.description(field)
        cells = (f"`{dotted(key)}`", schema.expected(field.type), _default(field), meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _default(field: FieldInfo) -> str:
    text = schema.description(field)[1]
    if field.required or text:
        return text or "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{render(value)}`"


if __name__ == "__main__":
    sys.stdout.write(page())
