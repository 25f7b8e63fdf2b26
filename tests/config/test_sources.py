"""Sources in the configuration: what is accepted, and what each mistake is told."""

import pytest

from mqworker.config.load import ConfigError, load
from mqworker.config.zone import zone

STAGES = """
[stages.detect]
input = "frames"
jobs = ["m:f"]
[stages.store]
input = "found"
jobs = ["m:g"]
"""


def loaded(folder, text: str, **environ: str):
    path = folder / "mqworker.toml"
    path.write_text(STAGES + text)
    return load(path, environ)


def test_a_source_has_its_defaults(tmp_path):
    """Two keys are enough."""
    source = loaded(tmp_path, '[sources.rows]\njob = "meters:rows"\ninto = "detect"\n').config.sources["rows"]
    assert (source.job, source.into, source.scheduled) == ("meters:rows", "detect", False)
    assert (source.max_backlog, source.catch_up, source.params) == (10_000, None, {})


def test_a_source_runs_where_its_stage_runs(tmp_path):
    """A service with a part of the stages has the sources of these alone."""
    text = '[sources.rows]\njob = "m:r"\ninto = "detect"\n[sources.others]\njob = "m:o"\ninto = "store"\n'
    part = loaded(tmp_path, text).part(["store"])
    assert list(part.config.sources) == ["others"]
    assert "runs elsewhere, with stage detect" in part.no_source("rows")
    assert "known: others" in part.no_source("nobody")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('into = "nowhere"', 'sources.rows.into: there is no stage "nowhere"; known: detect, store'),
        ('every = "soon"', 'sources.rows.every: is "soon", must be 0.1 s to 31 d'),
        ('every = "10 s"\ncron = "* * * * *"', "sources.rows.cron: there is also every"),
        ('cron = "* * * *"', 'sources.rows.cron: is "* * * *": it has 4 fields'),
        ('cron = "61 * * * *"', 'sources.rows.cron: is "61 * * * *": '),
        ('cron = "0 0 30 2 *"', 'sources.rows.cron: is "0 0 30 2 *": '),
        (
            'cron = "0 0 * * *"\ntimezone = "Europe/Atlantis"',
            "sources.rows.timezone: 'Europe/Atlantis' is not a time zone",
        ),
        ('timezone = "Europe/Berlin"', "sources.rows.timezone: has no effect without cron"),
        ('catch_up = "last"', "sources.rows.catch_up: has no effect without a schedule"),
        ('catch_up = "all"', "sources.rows.catch_up: is"),
        ("max_backlog = 0", "sources.rows.max_backlog: is 0"),
        ('evry = "10 s"', "sources.rows.evry: unknown key; did you mean every?"),
    ],
)
def test_each_mistake_has_its_sentence(tmp_path, lines, told):
    """The place, what is wrong, and what to do."""
    into = "" if lines.startswith("into") else 'into = "detect"\n'
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, f'[sources.rows]\njob = "m:r"\n{into}{lines}\n')
    assert told in str(error.value)


def test_what_is_missing_is_told(tmp_path):
    """Both keys are required, and told at once."""
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, "[sources.rows]\n")
    assert "sources.rows.job: missing" in str(error.value)
    assert "sources.rows.into: missing" in str(error.value)


def test_sources_of_one_stage_have_one_mark(tmp_path):
    """Their messages go to the same queue; each must be able to put one in."""
    two = '[sources.a]\njob = "m:a"\ninto = "detect"\nmax_backlog = 5\n[sources.b]\njob = "m:b"\ninto = "detect"\n'
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, two)
    assert 'sources.b.max_backlog: is 10000, but 5 of source "a"' in str(error.value)
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, two.replace("max_backlog = 5", "max_backlog = 1") + "max_backlog = 1\n")
    assert "less than the 2 sources of stage" in str(error.value)


def test_the_queue_of_its_position_has_a_name_that_amqp_can_hold(tmp_path):
    """The names of queue and source together may be too long."""
    text = f'[sources.{"s" * 64}]\njob = "m:r"\ninto = "long"\n[stages.long]\ninput = "{"q" * 190}"\njobs = ["m:f"]\n'
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, text)
    assert "would have a name of 262 bytes" in str(error.value)


@pytest.mark.parametrize(
    ("variable", "key"),
    [("Europe/Berlin", "Europe/Berlin"), (":Europe/Berlin", "Europe/Berlin"), ("UTC", "UTC")],
)
def test_the_zone_of_the_machine(monkeypatch, variable, key):
    """`TZ` names it, as for the C library."""
    monkeypatch.setenv("TZ", variable)
    assert zone("").key == key


def test_a_zone_without_a_name_is_refused(monkeypatch):
    """`TZ` may hold rules instead of a name; those have to be named."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    with pytest.raises(ValueError, match="set timezone of the source"):
        zone("")
