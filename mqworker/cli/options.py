"""What the verbs that call a running service share: their options, the client, waiting until a change is applied.

Imports nothing that would slow `--help` down; the configuration is read when a verb runs.

Longer than most modules, because each of those verbs takes all of this from one place.
"""

import functools
import inspect
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

from mqworker.address import Address, parse_url
from mqworker.cli import output
from mqworker.exits import Exit

if TYPE_CHECKING:
    from mqworker.config.load import Loaded

F = TypeVar("F", bound=Callable[..., Any])

TOKEN = "MQWORKER_CONTROL__TOKEN"  # noqa: S105 - the name of a variable
WAIT_MAX = 30.0  # seconds that one request may wait (interfaces.md)
ANSWER = 5.0  # seconds that an answer may take beyond the requested wait
POLL = 0.2  # seconds between status requests for a change that takes longer


class Failed(Exception):  # noqa: N818 - it ends a verb
    """A verb cannot do what was requested: one sentence, and the exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        self.code = code
        super().__init__(message)


def must_confirm(question: str) -> None:
    """Ask; raises `Failed` unless the answer is yes, and Abort on Ctrl-C at a terminal."""
    at_terminal = sys.stdin.isatty()
    try:
        sure = click.confirm(question, err=True)
    except click.Abort:
        if at_terminal:
            raise
        click.echo(err=True)
        raise Failed(Exit.USAGE, "nothing was removed, because nobody has confirmed it: add --yes") from None
    if not at_terminal:
        click.echo(err=True)  # nobody has typed the end of the line
    if not sure:
        raise Failed(Exit.INTERNAL, "nothing was removed")


def command() -> list[str]:
    """Return the command that starts this installation."""
    script = Path(sys.executable).parent / "mqworker"
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", "mqworker"]


def shell_command() -> str:
    """Return what a user types to start this installation."""
    found = shutil.which("mqworker")
    own = command()
    return "mqworker" if found is not None and own == [found] else shlex.join(own)


class Verb(click.Command):
    """A command whose docstring may end with "Example" or "Examples", which is shown line by line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = inspect.cleandoc(self.help or "").replace("\n\nExample", "\n\n\b\nExample")


class VerbGroup(click.Group):
    """A verb with verbs below it."""

    command_class = Verb


def load_config(
    path: Path | None, overrides: dict[str, Any] | None = None, stages: Collection[str] = (), *, secrets: bool = True
) -> "Loaded":
    """Load the configuration, with these stages alone if any are named; without `secrets` none of theirs are needed.

    Raises `Failed` with everything that is wrong with it, or with the stage that it does not have.
    """
    from mqworker.config.load import ConfigError, load

    try:
        loaded = load(path, os.environ, overrides or {}, (stages or None) if secrets else ())
    except ConfigError as error:
        rows = str(error).splitlines()
        raise Failed(
            Exit.CONFIG, "the configuration cannot be used:\n" + "\n".join(f"  {row}" for row in rows)
        ) from None
    try:
        return loaded.part(stages) if stages else loaded
    except KeyError as error:
        known = ", ".join(loaded.config.stages)
        raise Failed(Exit.CONFIG, f"--stage {error.args[0]}: there is no such stage; known: {known}") from None


class ServiceClient:
    """The service that a verb calls: its address, the selected stages, how long an answer may take."""

    def __init__(
        self,
        *,
        config: Path | None,
        url: str | None,
        socket: Path | None,
        timeout: float,
        stage: str | None,
        as_json: bool,
    ) -> None:
        from mqworker.client import Client

        self.timeout = timeout
        self.stage = stage
        self.as_json = as_json
        self.client = Client(_address(config, url, socket), timeout)

    def status(self) -> dict[str, Any]:
        """Fetch the whole snapshot, with its stages by name."""
        snapshot: dict[str, Any] = self.client.get("/status")
        snapshot["stages"] = {view["name"]: view for view in snapshot["stages"]}
        return snapshot

    def stages(self) -> list[str]:
        """Return the name of the selected stage, or of all stages."""
        return [self.stage] if self.stage else list(self.status()["stages"])

    def must_have_stage(self, name: str | None) -> None:
        """Fail with the stages that there are, if this is none of them; what it selects would just be empty."""
        if name is not None:
            self.client.get(stage_path(name))

    def one_stage(self) -> str:
        """Return the name of the selected stage; when none was selected, the service must have exactly one."""
        names = self.stages()
        if len(names) != 1:
            raise click.UsageError(f"The service has several stages ({', '.join(names)}); choose one with --stage.")
        return names[0]

    def change(
        self,
        method: str,
        stage: str,
        rest: str,
        payload: Any = None,
        *,
        wait: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Request a change of a stage, at the path `rest` below it.

        With `wait`, return once it is applied, or fail with 4 and what holds it up.
        """
        end = time.monotonic() + self.timeout
        wait_seconds = min(WAIT_MAX, self.timeout) if wait else 0.0
        path = stage_path(stage, rest)
        if wait:
            path += f"{'&' if '?' in path else '?'}wait={wait_seconds:g}"
        try:
            return self._applied(
                stage, self.client.call(method, path, payload, self.timeout + ANSWER, headers), end, wait
            )
        except KeyboardInterrupt:
            output.note("interrupted; what was asked for goes on: `mqworker status` shows how far it is")
            raise

    def _applied(self, stage: str, answer: dict[str, Any], end: float, wait: bool) -> dict[str, Any]:
        """Wait until a change is applied."""
        while wait and not answer.get("applied"):
            if time.monotonic() > end:
                raise Failed(Exit.NO_ANSWER, self._not_applied(answer["revision"], stage))
            time.sleep(POLL)
            view = self.client.get(stage_path(stage))
            if "change" in answer:
                for undone in view["undone"]:
                    if undone["change"] == answer["change"]:
                        what = progress(undone | {"state": "undone"})
                        code = Exit.GIVEN_BACK if undone["kind"] == "taken back" else Exit.CONFIG
                        raise Failed(code, output.clean(f"stage {stage}: {what}"))
                change = view["change"] or {"change": 0, "state": ""}
                if (change["change"], change["state"]) == (answer["change"], "preparing"):
                    continue
                answer["generation"] = view["desired"]["generation"]
                answer["revision"] = view["revision"]  # of the commit, or a later one
            answer["applied"] = view["applied"] >= answer["revision"]
        return answer

    def _not_applied(self, revision: int, stage: str) -> str:
        view = self.client.get(stage_path(stage))
        reason = f"stage {stage} is {view['state']}" + (f", {view['problem']}" if view.get("problem") else "")
        summary = f"the change is stored (revision {revision}) but was not applied within {self.timeout:g} s"
        return output.clean(f"{summary}: {reason}; `mqworker status` shows its progress")


def progress(change: Mapping[str, Any]) -> str:
    """Return in words how far a stage's last change of jobs or code is."""
    generation = f"generation {change['generation']}"
    match change["state"]:
        case "undone":
            return f"{generation} was undone {output.seconds(change['seconds'])} ago: {change['reason']}"
        case "preparing":
            how = f", {change['update']}" if change["update"] not in (None, "switch") else ""
            return f"{generation} is being prepared: {change['ready']} of {change['wanted']} Consumers are ready{how}"
        case _ if change["on_trial"]:
            return f"{generation} is committed, and has not finished a message yet"
        case _:
            left = change["left"]
            who = "1 Consumer works" if left == 1 else f"{left} Consumers work"
            return f"{generation} is committed; {who} with the previous code"


def stage_path(stage: str, rest: str = "") -> str:
    """Return the URL path of a stage's resource."""
    return f"/stages/{quote(stage, safe='')}{rest}"


def _address(config: Path | None, url: str | None, socket: Path | None) -> Address:
    """Return the service's address: --url, --socket, else the control socket of the configuration."""
    if url is None and socket is None:
        loaded = load_config(config, secrets=False)
        control = loaded.config.control
        return Address(control.host, control.port, str(loaded.socket), control.token)
    token = _token(config)
    if socket is not None:
        return Address(socket=str(socket), token=token)
    try:
        return parse_url(url or "", token)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from None


def _token(config: Path | None) -> str:
    """Return the token for an explicit address: from the configuration if there is one, else the environment."""
    from mqworker.config.load import ConfigError, load

    try:
        return load(config, os.environ, runs=()).config.control.token
    except ConfigError:
        if config is not None:
            load_config(config, secrets=False)  # it was named explicitly: fail with what is wrong with it
    if path := os.environ.get(f"{TOKEN}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise Failed(Exit.CONFIG, f"{TOKEN}_FILE: {path} cannot be read ({error.strerror})") from None
    return os.environ.get(TOKEN, "")


config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Configuration file.  [default: $MQWORKER_CONFIG, else mqworker.toml here]",
)


stages_option = click.option(
    "--stage",
    "-s",
    "stages",
    metavar="NAME",
    multiple=True,
    callback=lambda _context, _option, names: tuple(dict.fromkeys(names)),
    help="Only this stage; may be given several times.",
)


def uses_service(timeout: float = 5.0, *, stage: bool = True) -> Callable[[F], F]:
    """Add the options of a verb that calls a running service; it receives a `ServiceClient` as first argument."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def verb(
            *args: Any,
            config: Path | None,
            url: str | None,
            socket: Path | None,
            timeout: float,
            as_json: bool,
            stage: str | None = None,
            **kwargs: Any,
        ) -> Any:
            service = ServiceClient(
                config=config, url=url, socket=socket, timeout=timeout, stage=stage, as_json=as_json
            )
            with service.client:
                return function(service, *args, **kwargs)

        options = [
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
            click.option("--url", metavar="URL", help="The service's control address, e.g. http://127.0.0.1:5002."),
            click.option("--socket", type=click.Path(path_type=Path), help="The service's control socket."),
            config_option,
            click.option(
                "--timeout",
                type=click.FloatRange(0, 86_400, min_open=True),
                default=timeout,
                show_default=True,
                metavar="SECONDS",
                help="How long to wait for the answer.",
            ),
        ]
        if stage:
            options.insert(0, click.option("--stage", "-s", metavar="NAME", help="Only this stage."))
        decorated: Any = verb
        for option in reversed(options):
            decorated = option(decorated)
        result: F = decorated
        return result

    return decorate


def no_wait(function: F) -> F:
    """Add the option not to wait to a verb that changes something."""
    option = click.option("--no-wait", is_flag=True, help="Return once the change is stored, before it is applied.")
    return option(function)
