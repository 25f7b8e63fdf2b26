"""Loads the configuration: default < file < environment < flags; reports all errors at once.

Runs in any process that needs it, above all in the command line, so it imports only the standard library and msgspec.
Reads the file, the files that `..._FILE` variables name, and checks that TLS files exist; writes nothing. Raises only
`ConfigError`, whose text never holds a secret.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import replace

from mqworker.config import schema, urls
from mqworker.config.check import DEFAULT, Checker
from mqworker.config.errors import (
    PICKLE_KEY,
    READ_TOKEN,
    TOKEN,
    URL,
    ConfigError,
    ConfigProblem,
    Key,
    display,
    dotted,
    excerpt,
    quoted,
)
from mqworker.config.file import ConfigFile, read
from mqworker.config.model import AUTO, Config, SourceConfig, StageConfig
from mqworker.config.processors import usable
from mqworker.config.rules import violations
from mqworker.config.sources import Assignment, Environment, flags
from mqworker.config.urls import redact_url
from mqworker.config.violation import RuleViolation

__all__ = ["ConfigError", "ConfigProblem", "Loaded", "display_rows", "load", "redact_url"]


class Loaded(msgspec.Struct, frozen=True):
    """A valid configuration. All paths in it are absolute, including those inside `config`."""

    config: Config
    path: Path | None  # of the file, if there is one
    root: Path  # its folder, or the working directory: relative paths start here
    state_dir: Path
    socket: Path
    origins: dict[str, str]  # dotted key to "default", "mqworker.toml:12", "environment NAME", "NAME_FILE path", "flag"
    warnings: list[str]
    chosen: bool  # `broker.url` was given; otherwise the embedded broker is used
    whole: Config | None = None  # with the stages that this service leaves to others; None: there are none

    @property
    def all_stages(self) -> dict[str, StageConfig]:
        """All stages of the file."""
        return (self.whole or self.config).stages

    @property
    def all_sources(self) -> dict[str, SourceConfig]:
        """All sources of the file; each runs where its stage runs."""
        return (self.whole or self.config).sources

    @property
    def elsewhere(self) -> dict[str, StageConfig]:
        """The stages that this service leaves to others."""
        return {name: stage for name, stage in self.all_stages.items() if name not in self.config.stages}

    def no_stage(self, name: str) -> str:
        """Return a sentence about a stage that this service does not have."""
        here = ", ".join(self.config.stages)
        if name not in self.elsewhere:
            return f"there is no stage {quoted(name)}; known: {here}"
        there = "name the service that has it, by --url or by its MQWORKER_SERVICE__STATE_DIR"
        return f"stage {quoted(name)} runs elsewhere: {there}; here are: {here}"

    def no_source(self, name: str) -> str:
        """Return a sentence about a source that this service does not have."""
        if not self.all_sources:
            return f"there is no source {quoted(name)}: the configuration has no [sources.NAME]"
        here = ", ".join(self.config.sources) or "none"
        if name not in self.all_sources:
            return f"there is no source {quoted(name)}; known: {here}"
        return f"source {quoted(name)} runs elsewhere, with stage {self.all_sources[name].into}; here are: {here}"

    def part(self, names: Collection[str]) -> "Loaded":
        """Return this configuration with only these stages; raises KeyError with the first name that no stage has."""
        for name in names:
            self.all_stages[name]
        here = {name: stage for name, stage in self.all_stages.items() if name in names}
        sources = {name: source for name, source in self.all_sources.items() if source.into in here}
        part = replace(self.config, stages=here, sources=sources)
        return replace(self, config=part, whole=self.whole or self.config)


def load(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] = MappingProxyType({}),
    runs: Collection[str] | None = None,
) -> Loaded:
    """Load `path`, else the file that MQWORKER_CONFIG names, else mqworker.toml here if there is one.

    `overrides` are flags by dotted key; texts among them are parsed like environment variables. `runs`: the stages that
    the caller runs, whose secrets are needed; None: all. Raises `ConfigError`.
    """
    file = read(path, environ)
    root = file.path.parent if file.path else Path.cwd()
    problems: list[ConfigProblem] = []
    raw = file.tree
    _expand(raw, Config)
    assigned: dict[Key, str] = {}
    for assignment in Environment(environ, _named(raw)).read(problems):
        _place(raw, assignment)
        assigned[assignment.key] = assignment.origin
    for assignment in flags(overrides, _named(raw), problems):
        _place(raw, assignment)
        assigned[assignment.key] = assignment.origin
    origin_of = _origin_of(file, assigned)
    checker = Checker(origin_of)
    config = checker.config(raw)
    warnings = _file_warnings(file, config, checker.origins)
    for violation in violations(config, root, config.stages if runs is None else runs):
        if checker.bad.isdisjoint(violation.keys):
            problem = _problem(violation, config, checker.origins, origin_of)
            if violation.warning:
                warnings.append(str(problem))
            else:
                checker.problems.append(problem)
    problems = sorted(checker.problems, key=_line) + problems
    if problems:
        raise ConfigError(problems)
    return _resolved(config, file.path, root, checker.origins, warnings)


def _expand(raw: Any, struct: schema.Struct) -> None:
    """Replace each text that is given in place of a table by that table."""
    if not isinstance(raw, dict):
        return
    for name, field in schema.fields(struct).items():
        value = raw.get(name)
        if isinstance(value, str) and (key := schema.text_is(field.type)):
            raw[name] = {key: value}
        elif named := schema.named_tables(field.type):
            for each in value.values() if isinstance(value, dict) else ():
                _expand(each, named[1])
        elif table := schema.table_of(field.type):
            _expand(value, table)


def _named(raw: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the named tables by kind: the stages, the shared objects, the sources."""
    found = ((kind, raw.get(kind)) for kind in schema.NAMED)
    return {kind: tables if isinstance(tables, dict) else {} for kind, tables in found}


def _place(raw: dict[str, Any], assignment: Assignment) -> None:
    """Set one key; if the file has a value in place of a table, do nothing, because the check reports it."""
    *tables, last = assignment.key
    node: Any = raw
    for name in tables:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            return
    node[last] = assignment.value


def _origin_of(file: ConfigFile, assigned: dict[Key, str]) -> Callable[[Key], str]:
    """Return a function that returns the origin of a key; for a missing key, that of the nearest enclosing table."""

    def origin_of(key: Key) -> str:
        for length in range(len(key), 0, -1):
            part = key[:length]
            inside = (origin for other, origin in assigned.items() if other[:length] == part)
            if part in assigned:
                return assigned[part]
            if part in file.lines:
                return f"{file.name}:{file.lines[part]}"
            if origin := next(inside, None):
                return origin
        return file.name if file.path else f"{file.name} (not found)"

    return origin_of


def _value(config: Any, key: Key) -> Any:
    for name in key:
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


def _problem(
    violation: RuleViolation, config: Config, origins: dict[str, str], origin_of: Callable[[Key], str]
) -> ConfigProblem:
    """Place the violation at the first of its keys that the user has set."""
    key = violation.keys[0]
    written = next((name for name in violation.keys if origins.get(dotted(name), DEFAULT) != DEFAULT), key)
    value = excerpt(key, _value(config, key), origins.get(dotted(key), ""))
    return ConfigProblem(origin_of(written), dotted(key), violation.message.replace("{value}", value), violation.fix)


def _line(problem: ConfigProblem) -> tuple[bool, int]:
    """Return a sort key: problems with a line number come first, by that number."""
    found = re.search(r":(\d+)\Z", problem.where)
    return found is None, int(found[1]) if found else 0


def _file_warnings(file: ConfigFile, config: Config, origins: dict[str, str]) -> list[str]:
    """Warn about secrets in a configuration file that other users can read."""
    mode = file.mode()
    with_password = [url for url in config.broker.urls if redact_url(url) != url and "://guest:guest@" not in url]
    tokens = ((TOKEN, config.control.token), (READ_TOKEN, config.control.read_token))
    secrets: list[tuple[Key, Any]] = [*tokens, (URL, with_password)]
    secrets += [(("stages", name, PICKLE_KEY), stage.pickle_key) for name, stage in config.stages.items()]
    return [
        f"{origin}: {dotted(key)}: holds a secret that other users can read (mode {mode:04o}); chmod 600 {file.name}"
        for key, present in secrets
        if present and mode & 0o044 and (origin := origins[dotted(key)]).startswith(f"{file.name}:")
    ]


def _resolved(config: Config, path: Path | None, root: Path, origins: dict[str, str], warnings: list[str]) -> Loaded:
    """Make every path absolute, and fill in the defaults that follow from other keys."""
    state_dir = root / config.service.state_dir
    socket = root / config.control.socket if config.control.socket else state_dir / "control.sock"
    url = config.broker.url or urls.embedded(state_dir / "broker.db")
    tls = config.broker.tls
    return Loaded(
        config=replace(
            config,
            stages={
                name: _staffed(name, stage, origins, config.service.processes) for name, stage in config.stages.items()
            },
            service=replace(config.service, state_dir=str(state_dir)),
            control=replace(config.control, socket=str(socket)),
            broker=replace(
                config.broker,
                url=urls.absolute(url, root) if isinstance(url, str) else url,
                tls=replace(
                    tls, **{name: str(root / file) for name in ("ca", "cert", "key") if (file := getattr(tls, name))}
                ),
            ),
        ),
        path=path,
        root=root,
        state_dir=state_dir,
        socket=socket,
        origins=origins,
        warnings=warnings,
        chosen=bool(config.broker.url),
    )


def _staffed(name: str, stage: StageConfig, origins: dict[str, str], processes: int) -> StageConfig:
    """Give a stage with `cpus` as many Consumers, unless their number is set; with "auto", set their native threads."""
    if stage.consumers == AUTO and stage.native_threads is None:
        return replace(stage, native_threads=max(1, usable(cpus=stage.cpus) // processes))
    if not stage.cpus or origins[dotted(("stages", name, "consumers"))] != DEFAULT:
        return stage
    return replace(stage, consumers=usable(cpus=stage.cpus))


def display_rows(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return (key, value, origin) of every key for display, with secrets masked."""
    rows = []
    for key, field in schema.keys({kind: getattr(loaded.config, kind) for kind in schema.NAMED}):
        value = _value(loaded.config, key)
        if dotted(key) in loaded.origins and not (schema.is_free_table(field.type) and value):
            rows.append((key, value))
        elif isinstance(value, dict):
            rows += [((*key, name), item) for name, item in value.items()]
    return [(dotted(key), display(key, value, origin := loaded.origins[dotted(key)]), origin) for key, value in rows]
