"""Values from the environment and from flags: turns variables and dotted keys into assignments of raw values to keys.

Reads only the mapping passed to it and the files that `..._FILE` variables name. Collects all problems.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mqworker.config import schema
from mqworker.config.errors import ConfigProblem, Key, dotted, is_secret, nearest
from mqworker.config.model import ATTEMPT, MESSAGE_ID, SLOT, STAGE

PREFIX = "MQWORKER_"
CONFIG_FILE = "MQWORKER_CONFIG"
_NOT_KEYS = (CONFIG_FILE, SLOT, MESSAGE_ID, STAGE, ATTEMPT)  # the last four are for handlers and programs to read
_NO_KEYS_BEGIN = ("MQWORKER_INTERNAL_", "MQWORKER_TEST_")  # used between our own processes, and in test runs
_FILE = "_FILE"
_NEW_STAGE = re.compile(r"(MQWORKER_STAGES__([A-Z0-9]+(?:_[A-Z0-9]+)*))__INPUT(__QUEUE)?(_FILE)?")


class Assignment(NamedTuple):
    """One value for one key, and where it came from."""

    key: Key
    value: Any
    origin: str


class SourceError(Exception):
    """One variable is wrong; holds the reason and the fix, but never the value."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


def variable(key: Key) -> str:
    """Return the name of the environment variable that sets `key`."""
    return PREFIX + "__".join(re.sub(r"[-.]", "_", part).upper() for part in key)


class Environment:
    """The variables of one environment, matched against the named tables of the file."""

    def __init__(self, environ: Mapping[str, str], named: Mapping[str, Mapping[str, Any]]) -> None:
        self._variables = {
            name: value
            for name, value in sorted(environ.items())
            if name.startswith(PREFIX) and name not in _NOT_KEYS and not name.startswith(_NO_KEYS_BEGIN)
        }
        self._keys: dict[str, list[tuple[Key, Any]]] = {}
        stages = named["stages"]
        names = {**named, "stages": [*stages, *self._new_stages(stages)]}
        for key, field in schema.keys(names):
            self._register(key, field.type)
        for stage, table in stages.items():
            params = table.get("params") if isinstance(table, dict) else None
            for name in params if isinstance(params, dict) else ():
                self._register(("stages", stage, "params", name), Any)

    def _register(self, key: Key, annotation: Any) -> None:
        self._keys.setdefault(variable(key), []).append((key, annotation))

    def _new_stages(self, known: Iterable[str]) -> set[str]:
        """Return the stages that only the environment defines, by setting their input."""
        names = {variable(("stages", stage)) for stage in known}
        heads = (_NEW_STAGE.fullmatch(name) for name in self._variables)
        return {head[2].lower() for head in heads if head and head[1] not in names}

    def read(self, problems: list[ConfigProblem]) -> Iterator[Assignment]:
        """Yield the assignments, tables before the keys inside them; append whatever is wrong to `problems`."""
        for name, text in sorted(self._variables.items(), key=lambda item: item[0].count("__")):
            try:
                yield from self._assign(name, text)
            except SourceError as error:
                problems.append(ConfigProblem(f"environment {name}", "", error.message, error.fix))

    def _assign(self, name: str, text: str) -> Iterator[Assignment]:
        _must_be_text(text)
        if self._is_file_of_text(name):
            base = name.removesuffix(_FILE)
            if base in self._variables:
                raise SourceError(f"is set as well as {base}", "unset one of them")
            key, annotation = self._find(base)
            yield from assign(key, annotation, parse(_content(text, key), annotation), f"{name} {text}")
            return
        key, annotation = self._find(name)
        if is_secret(key) and not text.strip():
            raise SourceError("is empty", "unset it or set a value")
        yield from assign(key, annotation, parse(text, annotation), f"environment {name}")

    def _is_file_of_text(self, name: str) -> bool:
        found = self._keys.get(name.removesuffix(_FILE)) if name.endswith(_FILE) else None
        return bool(found and (schema.takes_text(found[0][1]) or schema.text_is(found[0][1])))

    def _find(self, name: str) -> tuple[Key, Any]:
        found = self._keys.get(name, [])
        if len(found) > 1:
            meanings = " or ".join(dotted(key) for key, _type in found)
            raise SourceError(f"may mean {meanings}", "rename one of them")
        if found:
            return found[0]
        for table, ((key, annotation), *_) in self._keys.items():
            if schema.is_free_table(annotation) and name.startswith(f"{table}__"):
                return (*key, name.removeprefix(f"{table}__").lower()), Any
        known = [known.removeprefix(PREFIX) for known in self._keys]
        close = nearest(name.upper().removeprefix(PREFIX), [*known, *(f"{one}{_FILE}" for one in known)])
        raise SourceError("unknown variable", f"did you mean {PREFIX}{close}?" if close else "")


def _must_be_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SourceError("is not UTF-8") from None


def _content(path: str, key: Key) -> str:
    """Return the value in a file; the file of a secret must not be accessible to other users."""
    try:
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - the mode is read from its descriptor
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if is_secret(key) and mode & 0o077:
                raise SourceError(f"{path} is accessible to other users (mode {mode:04o})", f"chmod 600 {path}")
            text = file.read().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read ({getattr(error, 'strerror', error)})") from None
    if is_secret(key) and not text.strip():
        raise SourceError(f"{path} is empty", "write the secret into it")
    return text


def parse(text: str, annotation: Any) -> Any:
    """Parse a variable's text: verbatim for a text key, else as a TOML value (lists may be separated by commas)."""
    if schema.takes_list(annotation):
        if text.lstrip().startswith("["):
            return _toml_value(text, text)
        if schema.takes_text(annotation):  # URLs, which may themselves contain commas
            urls = re.split(r"\s*,\s*(?=[a-z]+://)", text)
            return urls if len(urls) > 1 else text
        if not schema.takes_text(schema.item_of(annotation)):
            return _toml_value(f"[{text}]", text)
        return [item.strip() for item in text.split(",") if item.strip()]
    verbatim = schema.takes_text(annotation) or (schema.text_is(annotation) and not text.lstrip().startswith("{"))
    return text if verbatim else _toml_value(text, text)


def _toml_value(text: str, otherwise: Any) -> Any:
    try:
        tree = tomllib.loads(f"value = {text.lstrip()}")
    except (ValueError, RecursionError):
        return otherwise
    return tree["value"] if len(tree) == 1 else otherwise


def assign(key: Key, annotation: Any, value: Any, origin: str) -> Iterator[Assignment]:
    """Split a table into its keys, so that it is merged key by key with earlier sources."""
    table = schema.table_of(annotation)
    if isinstance(value, str) and (name := schema.text_is(annotation)):
        yield Assignment((*key, name), value, origin)
    elif isinstance(value, dict) and (table or schema.is_free_table(annotation)):
        known = schema.fields(table) if table else {}
        for name, item in value.items():
            yield from assign((*key, name), known[name].type if name in known else Any, item, origin)
    else:
        yield Assignment(key, value, origin)


def flags(
    overrides: Mapping[str, Any], named: Mapping[str, Iterable[str]], problems: list[ConfigProblem]
) -> Iterator[Assignment]:
    """Yield the assignments of flags by dotted key; None means that a flag was not given."""
    known = {key: field.type for key, field in schema.keys(named)}
    for name, value in overrides.items():
        if value is None:
            continue
        key = _split(name)
        annotation = known.get(key, Any)
        if key not in known and not (key[:-1] in known and schema.is_free_table(known[key[:-1]])):
            close = nearest(name, map(dotted, known))
            problems.append(ConfigProblem("flag", name, "unknown key", f"did you mean {close}?" if close else ""))
        else:
            yield from assign(key, annotation, parse(value, annotation) if isinstance(value, str) else value, "flag")


def _split(name: str) -> Key:
    try:
        tree = tomllib.loads(f"{name} = 0")
    except (ValueError, RecursionError):
        return (name,)
    key: Key = ()
    while isinstance(tree, dict) and len(tree) == 1:
        ((part, tree),) = tree.items()
        key = (*key, part)
    return key
