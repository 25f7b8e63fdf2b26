"""What a user gets for a configuration, good or bad. Uses real files in a temporary folder; mocks nothing."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqworker.config import docs, schema
from mqworker.config.errors import printable
from mqworker.config.load import ConfigError, Loaded, display_rows, load, redact_url
from mqworker.config.model import BrokerConfig, ControlConfig
from mqworker.config.sources import variable

SIX_LINES = """\
[broker]
url = "amqp://guest:guest@localhost/%2F"        # or sqlite:///var/mqworker.db, the default
[stages.energy]
input = "energyStorageStrategy.queue"
jobs = ["energy_storage:optimise"]
output = { exchange = "energyStorageStrategy.direct", queue = "energyStorageStrategy.queue.typc-fpd-tysh", \
routing_key = "typc-fpd-tysh" }
"""
STAGE = '[stages.s]\ninput = "in"\njobs = ["m:f"]\n'  # lines 1 to 3
CANARY = "canary1f3a"
OPTIONS = "has a part after ? or #; options are keys of [broker]; in a password write %3F or %23"
MALFORMED = (
    "is malformed; write amqp://user:password@host:5672/vhost; "
    "percent-encode everything but letters and digits in the password"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, name: str = "mqworker.toml", mode: int = 0o600) -> Path:
    path = Path(name)
    path.write_text(text)
    path.chmod(mode)
    return path


def problems(text: str | None, environ: dict | None = None, flags: dict | None = None) -> list[str]:
    """Return the lines reported for a bad configuration."""
    if text is not None:
        write(text)
    with pytest.raises(ConfigError) as caught:
        load(None, environ or {}, flags or {})
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return str(caught.value).splitlines()


def good(text: str, environ: dict | None = None, flags: dict | None = None) -> Loaded:
    write(text)
    return load(None, environ or {}, flags or {})


# --- good ones


def test_six_lines(folder):
    """The README's example loads, and each value knows its line."""
    loaded = good(SIX_LINES)
    stage = loaded.config.stages["energy"]
    assert (loaded.path, loaded.root, loaded.warnings) == (folder / "mqworker.toml", folder, [])
    assert stage.output.routing_key == "typc-fpd-tysh"
    assert stage.consumers == len(os.sched_getaffinity(0))
    assert loaded.origins["broker.url"] == "mqworker.toml:2"
    assert loaded.origins["stages.energy.jobs"] == "mqworker.toml:5"
    assert loaded.origins["stages.energy.output.queue"] == "mqworker.toml:6"
    assert loaded.origins["stages.energy.consumers"] == "default"


def test_a_stage_with_cpus_of_its_own_has_as_many_consumers():
    """Unless it says how many; the list may come from the environment, with commas."""
    ours = min(os.sched_getaffinity(0))
    assert good(STAGE + f"cpus = [{ours}]\n").config.stages["s"].consumers == 1
    assert good(STAGE + f"cpus = [{ours}]\nconsumers = 3\n").config.stages["s"].consumers == 3
    loaded = good(STAGE, {"MQWORKER_STAGES__S__CPUS": f"{ours}, 8000"})
    assert (loaded.config.stages["s"].cpus, loaded.config.stages["s"].consumers) == ((ours, 8000), 1)
    assert loaded.origins["stages.s.consumers"] == "default"


def test_consumers_may_be_automatic():
    """A number or "auto", also in the environment; what shares `processes` gets its share of native threads."""
    ours = len(os.sched_getaffinity(0))
    loaded = good(STAGE + 'consumers = "auto"\n')
    stage = loaded.config.stages["s"]
    assert (stage.consumers, stage.native_threads, loaded.config.service.processes) == ("auto", 1, ours)
    for text, expected in (("auto", "auto"), ("3", 3)):
        loaded = good(STAGE, {"MQWORKER_STAGES__S__CONSUMERS": text, "MQWORKER_SERVICE__PROCESSES": "5"})
        assert (loaded.config.stages["s"].consumers, loaded.config.service.processes) == (expected, 5)
    two = STAGE.replace("stages.s", "stages.t").replace('"in"', '"j"') + 'consumers = "auto"\n'
    both = STAGE + 'consumers = "auto"\n' + two + "[service]\nprocesses = 1\n"
    assert [text.partition(": ")[2] for text in good(both).warnings] == [
        'service.processes: is 1, less than the 2 stages with consumers = "auto": they take turns'
    ]


def test_all_paths_are_absolute(folder):
    """Relative paths start at the file's folder, not at the working directory; the default broker is embedded."""
    (folder / "etc").mkdir()
    path = write(STAGE + '[control]\nsocket = "c.sock"\n', "etc/x.toml")
    loaded = load(path, {})
    etc = folder / "etc"
    assert loaded.root == etc
    assert loaded.state_dir == etc / ".mqworker"
    assert loaded.socket == etc / "c.sock"
    assert loaded.config.control.socket == str(etc / "c.sock")
    assert loaded.config.service.state_dir == str(etc / ".mqworker")
    assert loaded.config.broker.url == f"sqlite:///{etc}/.mqworker/broker.db"
    assert loaded.origins["stages.s.input.queue"] == "etc/x.toml:2"


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///x.db", "sqlite:///{root}/x.db"),
        ("sqlite:///var/x y%20.db", "sqlite:///{root}/var/x y%20.db"),
        ("sqlite:////var/x.db", "sqlite:////var/x.db"),
        ("amqps://u:p@h:5671/v", "amqps://u:p@h:5671/v"),
    ],
)
def test_broker_urls(folder, url, absolute):
    """Three slashes are relative to the file, four absolute; AMQP URLs stay as they are."""
    assert good(f'{STAGE}[broker]\nurl = "{url}"').config.broker.urls == (absolute.format(root=folder),)


def test_folders_of_any_name(folder):
    """URL syntax in a folder's name is escaped in the broker's URL, and only there."""
    odd = folder / "a %20?#b"
    odd.mkdir()
    path = write(STAGE, odd / "mqworker.toml")
    assert urlsplit(load(path, {}).config.broker.url).path == "/" + quote(f"{odd}/.mqworker/broker.db")
    write(STAGE + "[broker]\nurl = 'sqlite:///x%20y.db'", path)
    loaded = load(path, {})
    assert unquote(urlsplit(loaded.config.broker.url).path) == f"/{odd}/x y.db"
    assert loaded.config.service.state_dir == f"{odd}/.mqworker"


def test_the_file_may_be_named_by_the_environment():
    """An explicit path wins over MQWORKER_CONFIG, which wins over mqworker.toml here."""
    for name in ("mqworker", "env", "arg"):
        write(f'{STAGE}[service]\nname = "{name}"', f"{name}.toml")
    environ = {"MQWORKER_CONFIG": "env.toml"}
    assert load(None, {}).config.service.name == "mqworker"
    assert load(None, environ).config.service.name == "env"
    assert load(Path("arg.toml"), environ).config.service.name == "arg"


def test_without_a_file_the_environment_is_enough(folder):
    """Variables alone can define a stage; the root is then the working directory."""
    loaded = load(None, {"MQWORKER_STAGES__MY_STAGE__INPUT": "q", "MQWORKER_STAGES__MY_STAGE__JOBS": "m:f, m:g"})
    assert (loaded.path, loaded.root) == (None, folder)
    assert loaded.config.stages["my_stage"].jobs == ("m:f", "m:g")
    assert loaded.origins["stages.my_stage.input.queue"] == "environment MQWORKER_STAGES__MY_STAGE__INPUT"


def test_a_text_is_the_queue_of_an_input_or_output(folder):
    """The table and the text may be mixed over file and environment."""
    text = '[stages.s]\njobs = ["m:f"]\ninput = "in"\noutput = "out"\n'
    stage = good(text).config.stages["s"]
    assert (stage.input.queue, stage.output.queue, stage.dead) == ("in", "out", "in.dlq")
    more = {
        "MQWORKER_STAGES__S__INPUT__EXCHANGE": "cameras",
        "MQWORKER_STAGES__S__INPUT__BINDINGS": "a.*, b.#",
        "MQWORKER_STAGES__S__OUTPUT": "7",
        "MQWORKER_STAGES__T__INPUT__QUEUE": "t",
        "MQWORKER_STAGES__T__JOBS": "m:f",
        "MQWORKER_STAGES__T__OUTPUT": '{ exchange = "results", type = "topic", routing_key = "done" }',
    }
    write(text)
    stages = load(None, more).config.stages
    assert (stages["s"].input.queue, stages["s"].input.exchange) == ("in", "cameras")
    assert (stages["s"].input.bindings, stages["s"].output.queue) == (("a.*", "b.#"), "7")
    assert (stages["t"].input.queue, stages["t"].output.exchange, stages["t"].output.type) == ("t", "results", "topic")


# --- sources


def test_order_of_sources():
    """Default < file < environment < flags, and each value knows its source."""
    name = "MQWORKER_STAGES__S__QUEUE_SIZE"
    cases = [
        ("", {}, {}, 128, "default"),
        ("queue_size = 1", {}, {}, 1, "mqworker.toml:4"),
        ("queue_size = 1", {name: "2"}, {}, 2, f"environment {name}"),
        ("queue_size = 1", {name: "2"}, {"stages.s.queue_size": 3}, 3, "flag"),
        ("queue_size = 1", {name: "2"}, {"stages.s.queue_size": "4"}, 4, "flag"),
        ("queue_size = 1", {name: "2"}, {"stages.s.queue_size": None}, 2, f"environment {name}"),
    ]
    for line, environ, flags, value, origin in cases:
        loaded = good(STAGE + line, environ, flags)
        assert (loaded.config.stages["s"].queue_size, loaded.origins["stages.s.queue_size"]) == (value, origin)


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("SERVICE__NAME", "4", "service.name", "4"),
        ("SERVICE__LOG_LEVEL", "debug", "service.log_level", "debug"),
        ("SERVICE__DRAIN_DEADLINE", "5", "service.drain_deadline", 5.0),
        ("CONTROL__PORT", "0", "control.port", 0),
        ("CONTROL__HOSTS", "a.example, b.example", "control.hosts", ("a.example", "b.example")),
        ("CONTROL__HOSTS", '["a.example"]', "control.hosts", ("a.example",)),
        ("CONTROL__HOSTS", "", "control.hosts", ()),
        ("BROKER__URL", "amqp://a,b@h1", "broker.url", "amqp://a,b@h1"),
        ("BROKER__URL", "amqp://h1, amqp://h2", "broker.url", ("amqp://h1", "amqp://h2")),
        ("BROKER__URL", '["amqp://h1", "amqp://h2"]', "broker.url", ("amqp://h1", "amqp://h2")),
        ("STAGES__A_B_C__PREFETCH", "7", "stages.A-b.c.prefetch", 7),
        ("STAGES__A_B_C__RETRY", "{ base = 2 }", "stages.A-b.c.retry.base", 2.0),
        ("STAGES__A_B_C__RETRY__FINAL", "ValueError", "stages.A-b.c.retry.final", ("ValueError",)),
        ("STAGES__A_B_C__OUTPUT__QUEUE", "out", "stages.A-b.c.output.queue", "out"),
        ("STAGES__A_B_C__PARAMS__CAPACITY", "1.5", "stages.A-b.c.params.capacity", 1.5),
        ("STAGES__A_B_C__PARAMS__INPUT", "some text", "stages.A-b.c.params.input", "some text"),
        ("STAGES__A_B_C__PARAMS__MAXPOWER", "2", "stages.A-b.c.params.maxPower", 2),
        ("SHARED__CACHE__JOB", "m:D", "shared.cache.job", "m:D"),
        ("SHARED__CACHE__DEADLINE", "2", "shared.cache.deadline", 2.0),
    ],
)
def test_every_key_is_a_variable(name, text, key, value):
    """Texts are taken verbatim, anything else is TOML; stage names match in any case, with - and . as _."""
    file = '[stages."A-b.c"]\ninput = "in"\njobs = ["m:f"]\nparams = { maxPower = 1 }\n[shared.cache]\njob = "m:C"'
    loaded = good(file, {f"MQWORKER_{name}": text})
    node = loaded.config
    for part in key.replace("A-b.c", "STAGE").split("."):
        node = node["A-b.c" if part == "STAGE" else part] if isinstance(node, dict) else getattr(node, part)
    assert node == value


def test_tables_are_merged_key_by_key():
    """A table from the environment replaces only the keys it has, and single keys win over it."""
    loaded = good(
        STAGE + "retry = { base = 2, max = 50 }\nparams = { a = 1, b = { x = 1, y = 2 } }",
        {
            "MQWORKER_STAGES__S__RETRY": "{ max = 60, max_attempts = 9 }",
            "MQWORKER_STAGES__S__RETRY__MAX_ATTEMPTS": "8",
            "MQWORKER_STAGES__S__PARAMS": "{ b = { x = 3 }, c = 4 }",
        },
    )
    stage = loaded.config.stages["s"]
    assert (stage.retry.base, stage.retry.max, stage.retry.max_attempts) == (2, 60, 8)
    assert stage.params == {"a": 1, "b": {"x": 3}, "c": 4}
    assert loaded.origins["stages.s.params.a"] == "mqworker.toml:5"
    assert loaded.origins["stages.s.params.c"] == "environment MQWORKER_STAGES__S__PARAMS"


def test_a_parameter_whose_name_ends_in_file_is_not_read_as_a_file():
    """`_FILE` means a file only for our own text keys."""
    loaded = good(STAGE, {"MQWORKER_STAGES__S__PARAMS__MODEL_FILE": "/no/such"})
    assert loaded.config.stages["s"].params == {"model_file": "/no/such"}


def test_a_queue_may_come_from_a_file_or_a_text_with_blanks_before_its_table(folder):
    """What stands for a table that a text may replace is read like a text, also from a file."""
    write("q\n", "queue", 0o644)
    write("\n { exchange = 'x', routing_key = 'k' }\n", "table", 0o644)
    loaded = good(STAGE, {"MQWORKER_STAGES__S__INPUT_FILE": "queue", "MQWORKER_STAGES__S__OUTPUT_FILE": "table"})
    stage = loaded.config.stages["s"]
    assert (stage.input.queue, stage.output.queue, stage.output.exchange) == ("q", "", "x")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_secret_from_a_file(folder, end):
    """`_FILE` yields the file's text without one trailing newline, and the origin has the file's name."""
    write(f"amqp://u:{CANARY}@h{end}", "url", 0o400)
    loaded = good(STAGE, {"MQWORKER_BROKER__URL_FILE": str(folder / "url")})
    assert loaded.config.broker.url == f"amqp://u:{CANARY}@h"
    assert loaded.origins["broker.url"] == f"MQWORKER_BROKER__URL_FILE {folder}/url"


def test_only_secrets_need_a_closed_file():
    """A name may come from a world-readable file; only the last newline is removed."""
    write("worker\n", "name", 0o644)
    assert good(STAGE, {"MQWORKER_SERVICE__NAME_FILE": "name"}).config.service.name == "worker"


def test_variables_that_are_no_keys_are_left_alone():
    """Internal variables, those of test runs, those of others and what handlers and programs find are ignored."""
    good(
        STAGE,
        {"MQWORKER_INTERNAL_X": "1", "MQWORKER_TEST_Y": "1", "MQWORKERS": "1", "PATH": "/bin", "MQWORKER_SLOT": "0"},
    )
    good(STAGE, {"MQWORKER_MESSAGE_ID": "m", "MQWORKER_STAGE": "s", "MQWORKER_ATTEMPT": "1"})


def test_programs_stand_among_the_jobs():
    """As tables, in the file and the environment; jobs as text, modules and the display know them."""
    jobs = '["m:f", { exec = ["./a b", "--fast"], name = "fast" }, { exec = ["awk"] }]'
    text = f'[stages.s]\ninput = "in"\njobs = {jobs}\n'
    loaded = good(text)
    stage = loaded.config.stages["s"]
    assert stage.specs == ("m:f", 'exec:["./a b","--fast"]', 'exec:["awk"]')
    assert [getattr(job, "name", "-") for job in stage.jobs] == ["-", "fast", None]
    assert loaded.config.modules == ("m",)
    shown = 'jobs = ["m:f", {exec = ["./a b", "--fast"], name = "fast"}, {exec = ["awk"]}]'
    assert shown in [f"{key.rpartition('.')[2]} = {value}" for key, value, _ in display_rows(loaded)]
    environ = {"MQWORKER_STAGES__S__JOBS": '["m:g", { exec = ["./b"] }]'}
    assert good(text, environ).config.stages["s"].specs == ("m:g", 'exec:["./b"]')


# --- bad ones

BAD_FILES = {
    "misspelt key": (
        STAGE + "consumer = 4",
        ["mqworker.toml:4: stages.s.consumer: unknown key; did you mean consumers?"],
    ),
    "dash for underscore": (
        STAGE + "[service]\nstate-dir = 'x'",
        ["mqworker.toml:5: service.state-dir: unknown key; did you mean state_dir?"],
    ),
    "key in the wrong table": (
        STAGE + "[service]\nport = 1",
        ["mqworker.toml:5: service.port: unknown key; did you mean control.port?"],
    ),
    "misspelt table": (STAGE + "[brokr]\n", ["mqworker.toml:4: brokr: unknown key; did you mean broker?"]),
    "wrong types": (
        STAGE + 'consumers = "four"\nretry = 5\nprefetch = true\n[service]\nname = 5\n[control]\nport = 80.5',
        [
            'mqworker.toml:4: stages.s.consumers: is "four", must be a whole number from 0 to 1024 or `auto`',
            "mqworker.toml:5: stages.s.retry: is a single value, must be a table; with max_attempts, base, max, final",
            "mqworker.toml:6: stages.s.prefetch: is true, must be a whole number from 1 to 65535",
            "mqworker.toml:8: service.name: is 5, must be at most 64 letters, digits, `.`, `-` or `_`",
            "mqworker.toml:10: control.port: is 80.5, must be a whole number from 0 to 65535",
        ],
    ),
    "out of range": (
        STAGE + "consumers = 5000\ntime_limit = { soft = -1, hard = inf }\n[broker]\nconfirm_deadline = nan",
        [
            "mqworker.toml:4: stages.s.consumers: is 5000, must be a whole number from 0 to 1024 or `auto`",
            "mqworker.toml:5: stages.s.time_limit.soft: is -1, must be a number from 0 to 4000000",
            "mqworker.toml:5: stages.s.time_limit.hard: is inf, must be a number from 0 to 4000000",
            "mqworker.toml:7: broker.confirm_deadline: is nan, must be a number above 0 and at most 3600",
        ],
    ),
    "choice": (
        STAGE + '[service]\nlog_level = "verbose"',
        ['mqworker.toml:5: service.log_level: is "verbose", must be one of debug, error, info, warning'],
    ),
    "required keys": (
        "[stages.a]\n[stages.b]\ninput = 'b'\njobs = ['m:f']\noutput = { exchange = 'x' }\n[stages.c]\ninput = {}\n",
        [
            'mqworker.toml:1: stages.a.input: missing; add input = "NAME"',
            'mqworker.toml:1: stages.a.jobs: missing; add jobs = ["module:name"]',
            'mqworker.toml:6: stages.c.jobs: missing; add jobs = ["module:name"]',
            'mqworker.toml:7: stages.c.input.queue: missing; add queue = "NAME"',
        ],
    ),
    "no stage": (
        "[service]\n",
        [
            (
                "mqworker.toml: stages: missing; add a table [stages.NAME] with input and jobs; "
                "`mqworker init` creates an example"
            )
        ],
    ),
    "jobs": (
        '[stages.s]\ninput = "in"\njobs = ["m:f", "m.f"]\n[stages.t]\ninput = "t"\njobs = []',
        [
            'mqworker.toml:3: stages.s.jobs: item 2 is "m.f", must be `module:name` or a table',
            "mqworker.toml:6: stages.t.jobs: is [], must be a list of at least one, each `module:name` or a table",
        ],
    ),
    "programs": (
        (
            '[stages.s]\ninput = "in"\n'
            'jobs = ["m:f", { exek = ["a"] }, { exec = [] }, { exec = ["a", ""], name = "x y" }]\n'
            '[stages.t]\ninput = "t"\njobs = [{ exec = "a b" }]\n'
            '[stages.u]\ninput = "u"\njobs = [{ exec = ["a"], name = "n" }, { exec = ["b"], name = "n" }]'
        ),
        [
            "mqworker.toml:3: stages.s.jobs.2.exek: unknown key; did you mean exec?",
            'mqworker.toml:3: stages.s.jobs.2.exec: missing; write { exec = ["./program"] }',
            "mqworker.toml:3: stages.s.jobs.3.exec: is [], must be a list of at least one, each text, not empty",
            'mqworker.toml:3: stages.s.jobs.4.exec: item 2 is "", must be text, not empty',
            'mqworker.toml:3: stages.s.jobs.4.name: is "x y", must be at most 64 letters, digits, `.`, `-` or `_`',
            'mqworker.toml:6: stages.t.jobs.1.exec: is "a b", must be a list of at least one, each text, not empty',
            (
                'mqworker.toml:9: stages.u.jobs: has 2 programs with the name "n"; a chain knows its jobs by their'
                " names: give each its own"
            ),
        ],
    ),
    "stage name": (
        "[stages.'a b']\ninput = 'q'\njobs = ['m:f']\n",
        ['mqworker.toml:1: stages."a b": the name must be at most 64 letters, digits, `.`, `-` or `_`'],
    ),
    "a stage that is no table": (
        "[stages]\ns = 'x'",
        ["mqworker.toml:2: stages.s: is text, must be a table; write [stages.NAME]"],
    ),
    "a ring of stages": (
        "".join(
            f"[stages.{name}]\njobs = ['m:f']\ninput = '{name}'\noutput = {{ queue = '{into}' }}\n"
            for name, into in (("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"))
        ),
        [
            (
                'mqworker.toml:8: stages.a.output.queue: "b" leads back to this stage (a -> b -> c -> a): '
                "an endless loop; publish the results of one of these stages to another queue"
            )
        ],
    ),
    "one input, two stages": (
        STAGE + "[stages.t]\njobs = ['m:f']\ninput = 'in'",
        [
            (
                'mqworker.toml:6: stages.t.input.queue: "in" is already the input of stage "s"; '
                "give each stage its own queue, or combine both chains in one stage"
            )
        ],
    ),
    "a shared object by a name that handlers know": (
        STAGE + "[shared.params]\njob = 'm:C'",
        [
            (
                "mqworker.toml:4: shared.params: handlers get something else by the name params; "
                "choose another name than params, message, log, deadline"
            )
        ],
    ),
    "a shared object by a name that no argument can have": (
        STAGE + "[shared.a-b]\njob = 'm:C'",
        ["mqworker.toml:4: shared.a-b: handlers could not have an argument of this name; write a name of Python"],
    ),
    "a class shared twice": (
        STAGE + "[shared.a]\njob = 'm:C'\n[shared.b]\njob = 'm:C'",
        [
            (
                'mqworker.toml:7: shared.b.job: "m:C" is shared already, as "a"; '
                "use that object, or derive a class of its own for this one"
            )
        ],
    ),
    "output to own input": (
        STAGE + "output.queue = 'in'",
        [
            (
                'mqworker.toml:4: stages.s.output.queue: "in" is also the input of this stage: an endless loop; '
                "publish the results to another queue"
            )
        ],
    ),
    "routing key without exchange": (
        STAGE + "output = { queue = 'out', routing_key = 'r' }",
        [
            (
                "mqworker.toml:4: stages.s.output.routing_key: has no effect without an exchange; "
                "set exchange, or remove routing_key"
            )
        ],
    ),
    "the backlog of an exchange": (
        STAGE + "output = { exchange = 'x', max_backlog = 10 }",
        [
            (
                "mqworker.toml:4: stages.s.output.max_backlog: has no effect without a queue: "
                "what an exchange leads to cannot be counted; set queue, or remove it"
            )
        ],
    ),
    "an output that is nothing": (
        STAGE + "output = { routing_key = 'r' }",
        ["mqworker.toml:4: stages.s.output.queue: is missing, and so is exchange; set one of them"],
    ),
    "bindings without exchange, and the other way round": (
        (
            "[stages.s]\ninput = { queue = 'in', bindings = ['a'] }\njobs = ['m:f']\n"
            "[stages.t]\ninput = { queue = 'i', exchange = 'x' }\njobs = ['m:f']\n"
            "output = { queue = 'o', type = 'topic' }"
        ),
        [
            (
                "mqworker.toml:2: stages.s.input.bindings: have no effect without an exchange; "
                "set exchange, or remove bindings"
            ),
            (
                "mqworker.toml:5: stages.t.input.exchange: has no effect without bindings; "
                'set bindings, for example ["#"], or remove exchange'
            ),
            "mqworker.toml:7: stages.t.output.type: has no effect without an exchange; set exchange, or remove type",
        ],
    ),
    "results that come back through a binding": (
        (
            "[stages.s]\ninput = { queue = 'in', exchange = 'x', bindings = ['a', 'r.#'] }\njobs = ['m:f']\n"
            "output = { exchange = 'x', routing_key = 'r.done' }"
        ),
        [
            (
                'mqworker.toml:4: stages.s.output.routing_key: "r.done" comes back to the input of this stage through '
                "its bindings: an endless loop; publish the results with another routing key, or to another exchange"
            )
        ],
    ),
    "a ring over an exchange": (
        (
            "[stages.s]\ninput = { queue = 'in', exchange = 'x', bindings = ['b'] }\njobs = ['m:f']\n"
            "output = { exchange = 'x', routing_key = 'a' }\n"
            "[stages.t]\ninput = { queue = 'i', exchange = 'x', bindings = ['a'] }\njobs = ['m:f']\n"
            "output = { exchange = 'x', routing_key = 'b' }"
        ),
        [
            (
                'mqworker.toml:4: stages.s.output.routing_key: "a" leads back to this stage (s -> t -> s): '
                "an endless loop; publish the results of one of these stages to another queue"
            )
        ],
    ),
    "a loop over an exchange that gives every queue everything": (
        (
            "broker.url = 'amqp://h'\n"
            "[stages.s]\ninput = { queue = 'in', exchange = 'x', type = 'fanout', bindings = ['a'] }\njobs = ['m:f']\n"
            "output = { exchange = 'x', routing_key = 'b' }"
        ),
        [
            (
                'mqworker.toml:5: stages.s.output.exchange: "x" gives every message to the input of this stage, its '
                "results too: an endless loop; publish the results to another exchange"
            )
        ],
    ),
    "a ring over a binding that another stage makes for its output": (
        (
            "[stages.s]\ninput = 'in'\njobs = ['m:f']\noutput = { queue = 'i', exchange = 'x', routing_key = 'k' }\n"
            "[stages.t]\ninput = 'i'\njobs = ['m:f']\noutput = { exchange = 'x', routing_key = 'k' }"
        ),
        [
            (
                'mqworker.toml:8: stages.t.output.routing_key: "k" comes back to the input of this stage through its '
                "bindings: an endless loop; publish the results with another routing key, or to another exchange"
            )
        ],
    ),
    "an input of another kind, and an unknown key in it": (
        "[stages.s]\ninput = 5\njobs = ['m:f']\n[stages.t]\ninput = { queue = 'i', bindngs = ['a'] }\njobs = ['m:f']",
        [
            (
                "mqworker.toml:2: stages.s.input: is a single value, must be text or a table; "
                "with queue, exchange, type, bindings"
            ),
            "mqworker.toml:5: stages.t.input.bindngs: unknown key; did you mean bindings?",
        ],
    ),
    "a queue name of too many bytes": (
        f"[stages.s]\njobs = ['m:f']\ninput = '{'ä' * 130}'",
        ["mqworker.toml:3: stages.s.input.queue: has 260 bytes, too many for AMQP; use a shorter name"],
    ),
    "limits that cross": (
        STAGE + "time_limit = { soft = 10, hard = 5 }\nretry.max = 0.5",
        [
            "mqworker.toml:4: stages.s.time_limit.soft: is 10.0, above the hard limit of 5 s; set soft below hard",
            "mqworker.toml:5: stages.s.retry.base: is 1.0, above retry.max of 0.5 s; set base to at most max",
        ],
    ),
    "parameters that cannot be handed on": (
        STAGE + "[stages.s.params]\nday = 2026-01-01\nbig = 99999999999999999999\nnot = [{ x = nan }]",
        [
            "mqworker.toml:5: stages.s.params.day: holds a date or time; write it as text",
            "mqworker.toml:6: stages.s.params.big: holds a whole number that needs more than 64 bits",
            "mqworker.toml:7: stages.s.params.not: holds nan, which JSON cannot carry",
        ],
    ),
    "open to others without a token": (
        STAGE + "[control]\nhost = '0.0.0.0'",
        [
            (
                'mqworker.toml:5: control.host: is "0.0.0.0", which others can reach, but control.token is not set; '
                'set MQWORKER_CONTROL__TOKEN_FILE to a file that holds a token, or host = "127.0.0.1"'
            )
        ],
    ),
    "a token for looking, and none for changing": (
        STAGE + f"[control]\nread_token = '{CANARY}'",
        [
            (
                "mqworker.toml:5: control.read_token: is set, but control.token is not: without it everybody may "
                "change everything; set control.token too, or neither"
            )
        ],
    ),
    "one token for looking and for changing": (
        STAGE + f"[control]\ntoken = '{CANARY}'\nread_token = '{CANARY}'",
        [
            (
                "mqworker.toml:6: control.read_token: is the same as control.token, so whoever may read could "
                "change everything; set another"
            )
        ],
    ),
    "token that no header can carry": (
        STAGE + f"[control]\ntoken = '{CANARY} x'",
        ["mqworker.toml:5: control.token: is ***, must be printable ASCII without blanks"],
    ),
    "TLS file": (
        STAGE + "[broker]\nurl = 'amqps://h'\ntls.key = '/no/key.pem'",
        [
            'mqworker.toml:6: broker.tls.key: there is no file "/no/key.pem"; relative paths start at {root}',
            "mqworker.toml:6: broker.tls.key: there is no cert for this key; set cert",
        ],
    ),
    "socket path": (
        STAGE + f"[control]\nsocket = '/{'x' * 107}'",
        [
            (
                "mqworker.toml:5: control.socket: its path has 108 bytes, but a unix socket's may have at most 107; "
                "set control.socket to a shorter path"
            )
        ],
    ),
    "a value and its neighbours": (
        STAGE + "retry = { base = -1, max = 0 }",  # base is bad itself: no word about base > max
        ["mqworker.toml:4: stages.s.retry.base: is -1, must be a number from 0 to 4000000"],
    ),
    "syntax": ("[broker]\nurl = amqp\n", ["mqworker.toml:2:7: is not TOML: Invalid value"]),
    "syntax at the end": ('a = 1\nb = """', ["mqworker.toml:2:8: is not TOML: Unterminated string"]),
    "the same key twice": ("a = 1\na = 2", ["mqworker.toml:2:6: is not TOML: Cannot overwrite a value"]),
    "endless brackets": ("a = " + "[" * 5000, ["mqworker.toml: is not TOML: nested too deeply"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(folder, name):
    """Each mistake is reported with its place, its key, the bad value and what is allowed; all of them at once."""
    text, expected = BAD_FILES[name]
    assert problems(text) == [line.replace("{root}", str(folder)) for line in expected]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"http://u:{CANARY}@h", "has an unknown scheme; use amqp://, amqps:// or sqlite:///"),
        ("localhost", "has an unknown scheme; use amqp://, amqps:// or sqlite:///"),
        (f"amqp://u:{CANARY}@", "has no host; write amqp://user:password@host:5672/vhost"),
        (f"amqp://u:{CANARY}@h:port", MALFORMED),
        (f"amqp://u:{CANARY}", MALFORMED),
        (f"amqp://u:{CANARY}/x@h", MALFORMED),
        (f"amqp://u:a@{CANARY}@h", "has more than one @; write %40 for one inside a name or password"),
        (f"amqp://u:%zz{CANARY}@h", "has a % that starts no escape; write %25 for a percent sign"),
        (
            f"amqp://u:1#{CANARY}@h",
            OPTIONS,
        ),
        (
            f"amqp://h/?p={CANARY}",
            OPTIONS,
        ),
        (f"amqp://u:{CANARY}@h/a/b", "has a second / in the vhost; write %2F for a slash in its name"),
        (f"amqp://u:{CANARY} @h", "contains spaces or control characters; percent-encode them"),
        (f"amqp://u:{CANARY}@h:0", "has port 0; omit the port for the standard one"),
        ("sqlite://x.db", "has no file name; write sqlite:///relative/file.db or sqlite:////absolute/file.db"),
        ("sqlite:///", "has no file name; write sqlite:///relative/file.db or sqlite:////absolute/file.db"),
        ("sqlite:///a?mode=ro", "has a ?, # or % in its path; write %3F, %23 or %25"),
        ("sqlite:///100%", "has a ?, # or % in its path; write %3F, %23 or %25"),
        ("sqlite:///:memory:", "is in memory, which several processes cannot share; use a file"),
    ],
)
def test_bad_broker_urls(url, message):
    """An invalid URL is refused without showing its password, in the file and in the environment."""
    (line,) = problems(f"{STAGE}[broker]\nurl = '{url}'")
    assert line.startswith("mqworker.toml:5: broker.url: ")
    assert line.endswith(f" {message}")
    assert CANARY not in line
    (line,) = problems(STAGE, {"MQWORKER_BROKER__URL": url})
    assert line.startswith("environment MQWORKER_BROKER__URL: broker.url: ")
    assert CANARY not in line


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "is [], must be text or a list of at least one, each text"),
        ("['amqp://h', 5]", "item 2 is ***, must be text"),
        (
            "['amqp://h', 'sqlite:///x']",
            "an embedded broker cannot be combined with other URLs; keep either it or the amqp URLs",
        ),
    ],
)
def test_bad_lists_of_urls(value, message):
    """A list of brokers may hold only AMQP URLs."""
    assert problems(f"{STAGE}[broker]\nurl = {value}") == [f"mqworker.toml:5: broker.url: {message}"]


def test_bad_variables_and_flags(folder):
    """Variables and flags are checked like the file, and reported by name."""
    write("", "empty")
    write("tok", "open", 0o640)
    Path("latin").write_bytes(b"\xe4")
    environ = {
        "MQWORKER_BROKER_URL": CANARY,
        "MQWORKER_CONTROL__TOKN_FILE": CANARY,
        "MQWORKER_STAGES__SS__PREFETCH": "1",
        "MQWORKER_STAGES__S__CONSUMERS": "many",
        "MQWORKER_STAGES__S__RETRY": "{ base = ",
        "MQWORKER_STAGES__S__PREFETCH": "1\nx = 2",
        "MQWORKER_BROKER__URL": "",
        "MQWORKER_CONTROL__TOKEN_FILE": "open",
        "MQWORKER_BROKER__TLS__CA_FILE": "none",
        "MQWORKER_SERVICE__NAME_FILE": "latin",
        "MQWORKER_SERVICE__STATE_DIR": "\udc80",
        "MQWORKER_SERVICE__LOG_FORMAT": "json",
        "MQWORKER_SERVICE__LOG_FORMAT_FILE": "x",
    }
    flags = {"stages.s.consumer": 1, "service.log_level": "loud", "a b": 1, "stages.s.params.x": 1}
    told = problems(STAGE, environ, flags)
    assert set(told) == {
        "environment MQWORKER_BROKER_URL: unknown variable; did you mean MQWORKER_BROKER__URL?",
        "environment MQWORKER_CONTROL__TOKN_FILE: unknown variable; did you mean MQWORKER_CONTROL__TOKEN_FILE?",
        "environment MQWORKER_STAGES__SS__PREFETCH: unknown variable; did you mean MQWORKER_STAGES__S__PREFETCH?",
        (
            'environment MQWORKER_STAGES__S__CONSUMERS: stages.s.consumers: is "many", '
            "must be a whole number from 0 to 1024 or `auto`"
        ),
        (
            "environment MQWORKER_STAGES__S__RETRY: stages.s.retry: is text, must be a table; "
            "with max_attempts, base, max, final"
        ),
        (
            'environment MQWORKER_STAGES__S__PREFETCH: stages.s.prefetch: is "1\\nx = 2", '
            "must be a whole number from 1 to 65535"
        ),
        "environment MQWORKER_BROKER__URL: is empty; unset it or set a value",
        "environment MQWORKER_CONTROL__TOKEN_FILE: open is accessible to other users (mode 0640); chmod 600 open",
        "environment MQWORKER_BROKER__TLS__CA_FILE: none cannot be read (No such file or directory)",
        "environment MQWORKER_SERVICE__NAME_FILE: latin is not UTF-8",
        "environment MQWORKER_SERVICE__STATE_DIR: is not UTF-8",
        (
            "environment MQWORKER_SERVICE__LOG_FORMAT_FILE: is set as well as MQWORKER_SERVICE__LOG_FORMAT; "
            "unset one of them"
        ),
        "flag: stages.s.consumer: unknown key; did you mean stages.s.consumers?",
        'flag: service.log_level: is "loud", must be one of debug, error, info, warning',
        "flag: a b: unknown key",
    }
    assert CANARY not in "".join(told)


def test_a_stage_that_two_names_mean():
    """A variable that could mean two stages is refused instead of setting one of them."""
    text = STAGE.replace("stages.s", "stages.a-b") + '[stages.a_b]\ninput = "x"\njobs = ["m:f"]'
    assert problems(text, {"MQWORKER_STAGES__A_B__CONSUMERS": "1"}) == [
        (
            "environment MQWORKER_STAGES__A_B__CONSUMERS: may mean stages.a-b.consumers or stages.a_b.consumers; "
            "rename one of them"
        )
    ]


def test_an_empty_secret_is_refused():
    """A token file without a token must not disable the token."""
    write("\n", "token")
    assert problems(STAGE, {"MQWORKER_CONTROL__TOKEN_FILE": "token"}) == [
        "environment MQWORKER_CONTROL__TOKEN_FILE: token is empty; write the secret into it"
    ]
    assert problems(STAGE, {"MQWORKER_CONTROL__TOKEN": " "}) == [
        "environment MQWORKER_CONTROL__TOKEN: is empty; unset it or set a value"
    ]


PICKLES = f"{STAGE}pickle_key ="
SHORT = "must be a text of at least 32 characters or a list, each a text of at least 32 characters"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{PICKLES} '{CANARY[:31]}'", f"mqworker.toml:4: stages.s.pickle_key: is ***, {SHORT}"),
        (f"{PICKLES} ''", f'mqworker.toml:4: stages.s.pickle_key: is "", {SHORT}'),
        (
            f"{PICKLES} ['{CANARY * 9}', '{CANARY[:5]}']",
            "mqworker.toml:4: stages.s.pickle_key: item 2 is ***, must be a text of at least 32 characters",
        ),
        (
            f"{STAGE}codec = 'pickle'",
            (
                'mqworker.toml:4: stages.s.codec: is "pickle", but there is no pickle_key; set pickle_key, or its '
                "variable with _FILE, to a secret such as `openssl rand -hex 32` prints"
            ),
        ),
        (f"{PICKLES} []", "mqworker.toml:4: stages.s.pickle_key: is an empty list; name a key, or remove it"),
        (
            f"{PICKLES} '[\"{CANARY * 9}\",'",
            (
                "mqworker.toml:4: stages.s.pickle_key: begins with [ but is not a TOML list; write "
                '["NEW", "OLD"], or choose a key that begins otherwise'
            ),
        ),
    ],
)
def test_a_key_of_pickles_that_is_none(text, problem):
    """A key that is too short or missing is an error that does not show it."""
    assert problems(text) == [problem]


ORDERED = f"{STAGE}ordered_by ="
HELD = f"{STAGE}time_limit = {{ hard = 60.0 }}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f"{ORDERED} 'camera'",
            (
                'mqworker.toml:4: stages.s.ordered_by: is "camera", must be `input`, `routing_key`, `correlation_id` or'
                " `header:NAME`"
            ),
        ),
        (
            f"{ORDERED} 'header:x-mqworker-attempt'",
            (
                "mqworker.toml:4: stages.s.ordered_by: x-mqworker-attempt is set by brokers, or by mqworker itself;"
                " name a header that the publishers set"
            ),
        ),
        (
            f"{STAGE}on_failure = 'pass'",
            (
                "mqworker.toml:4: stages.s.on_failure: has no effect: this stage keeps no order; set ordered_by, or"
                " leave on_failure out"
            ),
        ),
    ],
)
def test_an_order_that_cannot_be_kept(text, problem):
    """Only a header of the publishers can be a key, and who keeps no order holds nothing up."""
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (f"{HELD}ordered_by = 'input'", 0),
        (f"{ORDERED} 'input'\non_failure = 'pass'", 0),
        (f"{ORDERED} 'input'", 1),  # nothing ends a message that hangs
        (f"{HELD}ordered_by = 'routing_key'", 1),  # no bindings: one key
        (f"{HELD}ordered_by = 'input'\nconsumers = 4\nprefetch = 63", 1),
        (f"{HELD}ordered_by = 'input'\nconsumers = 'auto'\nprefetch = 3", 0),
        (f"{HELD}ordered_by = 'input'\n[broker]\nurl = 'amqp://h'\nack_timeout = 1800", 1),  # retry.max is an hour
        (f"{HELD}ordered_by = 'input'\nretry = {{ max = 900 }}\n[broker]\nurl = 'amqp://h'", 0),
    ],
)
def test_what_order_costs_is_said(text, warnings):
    """What will hold up others for long, or leave Consumers without work, is a warning."""
    assert len(good(text).warnings) == warnings


RABBIT, OTHER = "[broker]\nurl = 'amqp://h'\n", "[stages.other]\njobs = ['m:f']\n"


@pytest.mark.parametrize(
    ("other", "place"),
    [
        ("input = 'in.order'", "10: stages.other.input"),
        ("input = 'else'\noutput = 'in.order'", "11: stages.other.output"),
    ],
)
def test_no_queue_has_the_name_of_a_lock(other, place):
    """Of the two one could not be made; where nobody keeps an order, or the broker is a file, there is no lock."""
    (problem,) = problems(f"{HELD}ordered_by = 'input'\n{RABBIT}{OTHER}{other}")
    what = '"in.order" is the name of the lock of stage "s", which keeps an order; give the queue another name'
    assert problem == f"mqworker.toml:{place}.queue: {what}"
    for unlocked in (f"{HELD}{RABBIT}", f"{HELD}ordered_by = 'input'\n"):
        assert "other" in good(f"{unlocked}{OTHER}{other}").config.stages


def test_a_key_of_pickles_comes_from_anywhere_and_is_shown_nowhere(folder):
    """A file that others can read is refused, a warning at each start tells of the key, and no text has it."""
    key = CANARY * 9
    write(f"{key}\n", "key")
    variable = "MQWORKER_STAGES__S__PICKLE_KEY"
    found = [
        good(f"{PICKLES} '{key}'"),
        good(f"{PICKLES} ['{key}']"),
        good(STAGE, {variable: key}),
        good(STAGE, {variable: f'["{key}"]'}),
        good(STAGE, {f"{variable}_FILE": "key"}),
    ]
    for loaded in found:
        assert loaded.config.stages["s"].pickle_keys == (key,)
        (row,) = [row for row in display_rows(loaded) if row[0] == "stages.s.pickle_key"]
        assert row[1] == "***"
        (warning,) = loaded.warnings
        assert warning.endswith(
            "stages.s.pickle_key: this stage loads pickles: whoever has the key runs code in its Consumers"
        )
        assert CANARY not in f"{loaded!r} {loaded.config!s} {loaded.config.stages['s']!r} {warning}"
    assert good(STAGE).config.stages["s"].pickle_keys == ()
    write(f"{PICKLES} '{key}'", mode=0o644)
    assert "holds a secret that other users can read" in load(None, {}).warnings[0]
    write(key, "key", mode=0o644)
    assert problems(STAGE, {f"{variable}_FILE": "key"}) == [
        f"environment {variable}_FILE: key is accessible to other users (mode 0644); chmod 600 key"
    ]
    assert problems(STAGE, {variable: " "}) == [f"environment {variable}: is empty; unset it or set a value"]


def test_a_list_of_keys_from_outside_is_one_or_an_error(folder):
    """A broken list in a variable or its file does not become a key itself; what has no brackets is one key."""
    old, new, variable = CANARY * 9, CANARY[::-1] * 9, "MQWORKER_STAGES__S__PICKLE_KEY"
    write(f'["{new}", "{old}"]\n', "keys")
    for environ in ({f"{variable}_FILE": "keys"}, {variable: f'["{new}", "{old}"]'}):
        assert good(STAGE, environ).config.stages["s"].pickle_keys == (new, old)
    assert good(STAGE, {variable: f"{new},{old}"}).config.stages["s"].pickle_keys == (f"{new},{old}",)
    write(f'["{new}", {old}]\n', "keys")
    for environ in ({f"{variable}_FILE": "keys"}, {variable: f'["{new}",'}, {variable: f" [{new}]"}):
        (problem,) = problems(STAGE, environ)
        assert "stages.s.pickle_key: begins with [ but is not a TOML list" in problem
        assert CANARY not in problem


def test_a_stage_that_runs_elsewhere_needs_no_secret_here(folder):
    """The key of its pickles is in the environment of the service that runs it; here nothing warns of it either."""
    other = "[stages.t]\ninput = 'u'\njobs = ['m:f']\n"
    write(f"{STAGE}codec = 'pickle'\n{other}")
    for runs in (("t",), ()):
        assert load(None, {}, {}, runs).warnings == []
        with_key = load(None, {"MQWORKER_STAGES__S__PICKLE_KEY": CANARY * 9}, {}, runs)
        assert with_key.warnings == []
    with pytest.raises(ConfigError, match=r"stages\.s\.codec"):
        load(None, {}, {}, ("s", "t"))


def test_no_file(folder):
    """A requested file must exist; without any file, the missing stage is reported with its fix."""
    with pytest.raises(ConfigError, match=r"^x\.toml: no such file; `mqworker init` creates an example$"):
        load(Path("x.toml"), {})
    with pytest.raises(ConfigError, match=r"^y\.toml: no such file"):
        load(None, {"MQWORKER_CONFIG": "y.toml"})
    assert problems(None)[0].startswith("mqworker.toml (not found): stages: missing; add a table [stages.NAME]")


def test_unreadable_files(folder):
    """A folder, and bytes that are not UTF-8, are reported as such."""
    Path("dir").mkdir()
    Path("latin").write_bytes(b'a = "\xe4"')
    for name, message in {"dir": "cannot be read", "latin": "is not UTF-8 at byte 5"}.items():
        with pytest.raises(ConfigError, match=message):
            load(Path(name), {})


RING = {
    "s": ("{ queue = 'in', exchange = 'x', bindings = ['b'] }", "{ exchange = 'x', routing_key = 'a' }"),
    "end": ("{ queue = 'e', exchange = 'x', bindings = ['a'] }", "'over'"),
    "t": ("{ queue = 'i', exchange = 'x', bindings = ['a'] }", "{ exchange = 'x', routing_key = 'b' }"),
}


@pytest.mark.parametrize("names", list(itertools.permutations(RING)), ids=" ".join)
def test_a_ring_is_found_in_whatever_order_its_stages_are(folder, names):
    """Results that several stages receive are followed to each of them."""
    text = "".join(
        f"[stages.{name}]\njobs = ['m:f']\ninput = {RING[name][0]}\noutput = {RING[name][1]}\n" for name in names
    )
    (problem,) = problems(text)
    assert "leads back to this stage" in problem
    assert "output.routing_key" in problem


def test_what_no_exchange_brings_back_is_no_loop(folder):
    """A direct exchange compares keys, and a binding key may be as long as AMQP allows."""
    long = "b" * 255
    text = (
        "broker.url = 'amqp://h'\n"
        f"[stages.s]\ninput = {{ queue = 'in', exchange = 'x', type = 'direct', bindings = ['#', '{long}'] }}\n"
        "jobs = ['m:f']\noutput = { exchange = 'x', routing_key = 'b' }"
    )
    assert good(text).warnings == []
    assert "an endless loop" in problems(text.replace("broker.url = 'amqp://h'\n", ""))[0]  # there it is a topic one


def test_a_type_that_the_embedded_broker_has_not_is_a_warning(folder):
    """Every exchange is a topic exchange there."""
    text = (
        "[stages.s]\ninput = { queue = 'in', exchange = 'x', type = 'topic', bindings = ['a'] }\n"
        "jobs = ['m:f']\noutput = { exchange = 'y', type = 'fanout' }"
    )
    assert good(text).warnings == [
        (
            'mqworker.toml:4: stages.s.output.type: "fanout" has no effect: every exchange of the embedded broker is a '
            "topic exchange"
        )
    ]


# --- warnings


def test_warnings(folder):
    """What works, but hardly as intended, is a warning: limits the broker cuts, unused TLS, readable secrets."""
    write("", "ca.pem")
    text = f"""[broker]
url = "amqp://u:{CANARY}@h"
tls.ca = "ca.pem"
[control]
token = "{CANARY}"
"""
    write(text + STAGE + "time_limit.hard = 1801", mode=0o644)
    loaded = load(None, {})
    assert loaded.warnings == [
        "mqworker.toml:5: control.token: holds a secret that other users can read (mode 0644); chmod 600 mqworker.toml",
        "mqworker.toml:2: broker.url: holds a secret that other users can read (mode 0644); chmod 600 mqworker.toml",
        "mqworker.toml:3: broker.tls.ca: is not used: no broker URL begins with amqps://",
        (
            "mqworker.toml:9: stages.s.time_limit.hard: is 1801.0, longer than the 1800 s after which the broker "
            "closes the channel; raise consumer_timeout on the broker and broker.ack_timeout here"
        ),
    ]
    write(text.replace("amqp:", "amqps:") + STAGE)
    assert load(None, {}).warnings == []


def test_how_many_messages_at_once_the_rest_allows(folder):
    """Too many Consumers for the register are refused; a prefetch that leaves seats empty is a warning."""
    assert problems(STAGE + "concurrency = 1000\nconsumers = 17") == [
        (
            "mqworker.toml:5: stages.s.consumers: is 17; with a concurrency of 1000 a stage has at most 16;"
            " lower one of the two"
        )
    ]
    assert good(STAGE + "concurrency = 64\nconsumers = 2\nprefetch = 127").warnings == [
        (
            "mqworker.toml:6: stages.s.prefetch: is 127: of the 128 messages that its Consumers can work on at once,"
            " no more than these are here; raise prefetch, or leave it out"
        )
    ]
    assert good(STAGE + "concurrency = 64\nconsumers = 2\nprefetch = 128").warnings == []
    assert good(STAGE + "consumers = 2\nprefetch = 1").warnings == []


# --- secrets


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("amqp://guest:guest@localhost/%2F", "amqp://guest:***@localhost/%2F"),
        ("amqp://user@host/v", "amqp://user@host/v"),
        ("amqps://[::1]:5671/v", "amqps://[::1]:5671/v"),
        ("amqp://:pw@h", "amqp://:***@h"),
        ("amqp://u:p@w:x@h:1", "amqp://u:***@h:1"),
        ("amqp://u:p//w@h", "amqp://u:***@h"),
        ("u:p//w@h", "u:***@h"),
        ("amqp:/u:p@h", "amqp:***@h"),
        ("amqp://h?password=x", "amqp://h?***"),
        ("sqlite:////var/a@b:c.db", "sqlite:////var/a@b:c.db"),
    ],
)
def test_redact_url(url, safe):
    """A URL is shown unchanged but for its password."""
    assert redact_url(url) == safe


AROUND = st.text(alphabet="@:/?#[]%a ", max_size=6)


@given(st.sampled_from(["amqp://u:{}@h/v", "amqp://u:{}@", "u:{}@h", "http://:{}@h:1", "amqp:{}@h"]), AROUND, AROUND)
def test_no_password_survives_redaction(form, before, after):
    """Whatever characters surround it, a password is never shown."""
    assert CANARY not in redact_url(form.format(f"a{before}{CANARY}{after}a"))


@given(AROUND, AROUND)
def test_no_password_survives_without_a_host(before, after):
    """Nor is it shown when the host was forgotten."""
    assert CANARY not in redact_url(f"amqp://u:a{before}{CANARY}{after}a".replace("@", ""))


def test_secrets_are_in_no_text(folder):
    """Token, URL password and anything from a `_FILE` appear in no listing and no representation."""
    write(CANARY, "token")
    write(f"x{CANARY}", "name")
    loaded = good(
        f'{STAGE}params = {{ at = "http://u:{CANARY}@h" }}\n[broker]\nurl = ["amqp://u:{CANARY}@h1", "amqp://u:{CANARY}@h2"]',
        {"MQWORKER_CONTROL__TOKEN_FILE": "token", "MQWORKER_SERVICE__NAME_FILE": "name"},
    )
    rows = {key: (value, origin) for key, value, origin in display_rows(loaded)}
    assert rows["control.token"] == ("***", "MQWORKER_CONTROL__TOKEN_FILE token")
    assert rows["broker.url"] == ('["amqp://u:***@h1", "amqp://u:***@h2"]', "mqworker.toml:6")
    assert rows["stages.s.params.at"] == ('"http://u:***@h"', "mqworker.toml:4")
    assert rows["stages.s.prefetch"] == ("none", "default")
    assert rows["service.log_level"] == ('"info"', "default")
    assert CANARY not in str(rows)
    assert CANARY not in repr(BrokerConfig(url=f"amqp://u:{CANARY}@h")) + repr(ControlConfig(token=CANARY))


def test_shown_has_every_key():
    """`config show` lists each key of the schema once, each with an origin."""
    more = '[shared.cache]\njob = "m:C"\n[sources.rows]\njob = "m:g"\ninto = "energy"\n'
    rows = [key for key, _, _ in display_rows(good(f"{SIX_LINES}\n{more}"))]
    names = {"stages": ["energy"], "shared": ["cache"], "sources": ["rows"]}
    leaves = [key for key, field in schema.keys(names) if not schema.table_of(field.type)]
    assert sorted(rows) == sorted(".".join(key) for key in leaves)


@pytest.mark.parametrize(
    "text",
    [
        f"[control]\ntokn = '{CANARY}'",
        f"[service]\ntoken = '{CANARY}'",
        f"control = '{CANARY}'",
        f"broker = 'amqp://u:{CANARY}@h'",
        f"[control.token]\na = '{CANARY}'",
        f"[control]\ntoken = ['{CANARY}']",
        f"[control]\nport = {{ token = '{CANARY}' }}",
        f"[control]\nhost = ['{{}}', {{ a = '{CANARY}' }}]",
        f"[broker]\nurl = {{ a = '{CANARY}' }}",
        f"[broker]\nurl = [['amqp://u:{CANARY}@h']]",
        f"[broker]\nurl = 'amqp://u:{CANARY}@h\n",
        f"{STAGE}params = '{CANARY}'",
        f"{STAGE}pickle_key = '{CANARY}'",
        f"{STAGE}pickle_key = {{ a = '{CANARY}' }}",
        f"{STAGE}pickle_key = [['{CANARY}']]",
        f"{STAGE}pickle_keys = '{CANARY}'",
    ],
)
def test_no_mistake_spills_a_secret(text):
    """A secret in the wrong place, of the wrong type or in a broken file does not appear in the errors."""
    assert CANARY not in "\n".join(problems(text))


def test_values_from_outside_keep_to_their_line():
    """Control characters and what UTF-8 cannot encode are escaped, so that one problem stays one line."""
    told = problems(STAGE + '"a\\n\\u001b[31m" = 1', {"MQWORKER_X\nroot: all fine\udc80": "1"})
    assert told == [
        'mqworker.toml:4: stages.s."a\\n\\x1b[31m": unknown key; known keys: '
        + ", ".join(schema.fields(schema.named_tables(schema.fields(schema.Config)["stages"].type)[1])),
        "environment MQWORKER_X\\nroot: all fine\\udc80: unknown variable",
    ]
    assert printable("plain ä") == "plain ä"


# --- whatever happens

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = {"stages": ["s"], "shared": ["s"]}
KEYS = sorted(".".join(key) for key, _ in schema.keys(NAMES))
TOML_VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(
        ["true", "''", "[]", "{}", "[{}]", "2026-01-01", "12:00:00", "['a', 1]", "{ a = { b = 1 } }", "'sqlite:'"]
    ),
    st.from_regex(r"'[^'\n\x00-\x1f\x7f]{0,9}'", fullmatch=True),
)
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loads_or_tells(text: str, environ: dict | None = None, flags: dict | None = None) -> None:
    Path("mqworker.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        display_rows(load(None, environ or {}, flags or {}))
    except ConfigError as error:
        told = error
    else:
        return
    assert told.problems
    assert len(str(told).splitlines()) == len(told.problems)


@QUIET
@given(st.sampled_from(KEYS), TOML_VALUES)
def test_any_value_for_any_key(key, value):
    """Whatever value a key has, the file loads or its problems are reported; no other exception is raised."""
    loads_or_tells(f"{key} = {value}\n{STAGE}")


@QUIET
@given(st.sampled_from(KEYS), st.integers(0, 40), st.text(max_size=2))
def test_any_misspelling(key, at, letters):
    """Nor is one raised for a misspelt key, or for any character inserted into a line."""
    line = f"{key} = 1"
    loads_or_tells(f"{line[:at]}{letters}{line[at + 1 :]}\n{SIX_LINES}")


@QUIET
@given(st.sampled_from([variable(tuple(key.split("."))) for key in KEYS]), st.sampled_from(["", "_FILE", "X", "__A"]),
       st.text(st.characters(exclude_characters="\0")))  # fmt: skip
def test_any_variable(name, suffix, text):
    """Nor for any variable."""
    loads_or_tells(STAGE, {name + suffix: text})


@QUIET
@given(st.sampled_from(KEYS) | st.text(max_size=8), VALUES)
def test_any_flag(key, value):
    """Nor for any flag."""
    loads_or_tells(STAGE, {}, {key: value})


@QUIET
@given(st.integers(0, len(SIX_LINES)), st.integers(0, 30), st.text(max_size=3))
def test_any_damage(at, cut, text):
    """Nor for a file with one piece removed and another inserted."""
    loads_or_tells(SIX_LINES[:at] + text + SIX_LINES[at + cut :])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params" + ".a" * 5000 + " = 1", "stages.s.params.a: is nested more than 32 levels deep"),
        ("x" + ".a" * 5000 + " = 1", "stages.s.x: unknown key"),
        ("codec" + ".a" * 5000 + " = 1", "stages.s.codec: is a table"),
        ("params.a = " + "[" * 90 + "]" * 90, "stages.s.params.a: is nested more than 32 levels deep"),
    ],
)
def test_deep_nesting(text, message):
    """Endless nesting is reported, and crashes nothing."""
    (line,) = problems(STAGE + text)
    assert message in line or "nested too deeply" in line  # the parser of Python 3.14 has a limit of its own


# --- the rest


def test_page_is_current():
    """docs/configuration.md matches the structs; `python -m mqworker.config.docs` writes it."""
    committed = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert committed.read_text() == docs.page()


def test_every_key_is_explained():
    """Each key has a description."""
    for key, field in schema.keys(NAMES):
        table = schema.table_of(field.type)
        assert schema.description(field)[0] or (table and table.__doc__), key


def test_light_import():
    """Loading a configuration imports only the standard library and msgspec."""
    code = (
        "import sys; before = set(sys.modules); import mqworker.config.load;"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert set(done.stdout.split()) <= {"mqworker", "msgspec", "typing_extensions"}  # the last is msgspec's
