"""The rules of sources: where they publish, when they tick, and how much they may put into a queue.

Reads the machine's time zones if a source has a `cron`; changes nothing. Used by the rules.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from mqworker.config import durations
from mqworker.config.errors import Key, quoted
from mqworker.config.model import Config, SourceConfig
from mqworker.config.violation import RuleViolation

MOST_BYTES = 255  # of a queue's name
CRON_FIELDS = 5


def source_violations(config: Config) -> Iterator[RuleViolation]:
    """Check all sources."""
    for name, source in config.sources.items():
        at: Key = ("sources", name)
        stage = config.stages.get(source.into)
        if stage is None:
            there = ", ".join(config.stages)
            yield RuleViolation(((*at, "into"),), "there is no stage {value}", f"known: {there}")
        else:
            size = len(stage.position_queue(name).encode())
            if size > MOST_BYTES:
                what = f"the queue for its position would have a name of {size} bytes, too many for AMQP"
                yield RuleViolation(((*at, "into"),), what, "use a shorter name for the source or the queue")
        yield from _schedule(at, source)
    for stage_name in config.stages:
        yield from _backlogs(config, stage_name)


def _schedule(at: Key, source: SourceConfig) -> Iterator[RuleViolation]:
    every, cron = (*at, "every"), (*at, "cron")
    if source.every is not None and source.cron is not None:
        yield RuleViolation((cron, every), "there is also every", "keep one of them")
    if source.every is not None and durations.milliseconds(source.every) is None:
        yield RuleViolation((every,), "is {value}, must be " + durations.EXPECTED)
    if source.cron is not None and (why := cron_fault(source.cron)):
        yield RuleViolation((cron,), f"is {{value}}: {why}", 'write five fields, such as "*/5 * * * *"')
    if source.timezone or source.cron is not None:
        from mqworker.config.zone import zone  # noqa: PLC0415 - it takes a while, and few have one

        try:
            zone(source.timezone)
        except ValueError as error:
            yield RuleViolation(((*at, "timezone"), cron), str(error))
    if source.timezone and source.cron is None:
        yield RuleViolation(((*at, "timezone"), cron), "has no effect without cron", "set cron, or remove it")
    if source.catch_up is not None and not source.scheduled:
        keys = ((*at, "catch_up"), cron, every)
        yield RuleViolation(keys, "has no effect without a schedule", "set every or cron, or remove it")


def cron_fault(text: str) -> str:
    """Return what is wrong with a cron expression; "" for nothing."""
    from cronsim import CronSim  # noqa: PLC0415 - only where one is configured: `--help` stays quick

    if len(text.split()) != CRON_FIELDS:
        return f"it has {len(text.split())} fields"
    try:
        next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except StopIteration:
        return "there is no such time"
    except Exception as error:  # noqa: BLE001 - it may also fail on its own assertions
        return str(error) or "it cannot be read"
    return ""


def _backlogs(config: Config, stage: str) -> Iterator[RuleViolation]:
    """Check that the sources of a stage agree on how much its queue may hold, and that there is room for each."""
    names = config.sources_into(stage)
    for name in names:
        first, mark = config.sources[names[0]], config.sources[name].max_backlog
        keys = (("sources", name, "max_backlog"), ("sources", names[0], "max_backlog"))
        if mark != first.max_backlog:
            what = f"is {{value}}, but {first.max_backlog} of source {quoted(names[0])}, whose messages go to the same"
            yield RuleViolation(keys, f"{what} queue", "set the same number for both")
        elif mark < len(names):
            what = f"is {{value}}, less than the {len(names)} sources of stage {quoted(stage)}"
            yield RuleViolation(keys[:1], what, "set a larger number")
