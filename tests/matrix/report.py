"""What a run of the kill matrix found: Markdown tables, and what breaks the promise. Pure but for `put`."""

from pathlib import Path

from tests.matrix.bench import Account
from tests.matrix.cells import BROKERS, MESSAGES, RANDOM, SIGNALS, STEPPED, STEPS, Cell, allowed

Accounts = dict[tuple[str, Cell], Account]
# Steps at which what was stopped must have been ended, or given up, before it was continued. (At other steps it may be
# a Consumer that gets no more work, which nobody misses.)
ACTS = {("consumer", "stop"): ("dispatched", "computing"), ("producer", "stop"): STEPS, ("broker", "stop"): STEPS}
NONE = "-"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"


def markdown(accounts: Accounts, times: int, seed: int, seconds: float) -> str:
    """Return all tables."""
    sent, shots = sum(a.sent for a in accounts.values()), sum(a.shots for a in accounts.values())
    lost, repeats = sum(a.lost for a in accounts.values()), sum(a.repeats for a in accounts.values())
    words = (
        f"{shots:,} shots, {times} a cell, {MESSAGES} messages or more each: {sent:,} messages, **{lost} lost**, "
        f"{repeats:,} repeated ({seconds / 60:.0f} minutes, seed {seed}). Each field says *lost / repeated* of its "
        "cell, and in parentheses the most repeats of one shot when there were any."
    )
    blocks = [words]
    for broker in BROKERS:
        known = {cell: account for (kind, cell), account in accounts.items() if kind == broker}
        targets = [target for target in STEPPED if any(cell.target == target for cell in known)]
        if targets:
            columns = [(target, how) for target in targets for how in SIGNALS]
            rows = [[step, *(_field(known.get(Cell(*column, step))) for column in columns)] for step in STEPS]
            blocks.append(_table([f"{broker}: at the step", *(f"{t} {h}" for t, h in columns)], rows))
    outside = [[broker, *(_field(accounts.get((broker, cell))) for cell in _outside())] for broker in BROKERS]
    rows = [row for row in outside if any(field != NONE for field in row[1:])]
    if rows:
        blocks.append(_table(["at a random time", *(f"{cell.target} {cell.how}" for cell in _outside())], rows))
    slow = [
        f"{what} {max(found):.1f} s"
        for what in (f"{target} {how}" for target in STEPPED + RANDOM for how in SIGNALS)
        if (found := [a.slowest for (_, cell), a in accounts.items() if f"{cell.target} {cell.how}" == what])
    ]
    blocks.append(f"The longest time from the first message of a shot until everything was at rest: {', '.join(slow)}.")
    return "\n\n".join(blocks)


def _outside() -> list[Cell]:
    return [Cell(target, how, "") for target in RANDOM for how in SIGNALS]


def _field(account: Account | None) -> str:
    if account is None:
        return NONE
    return f"{account.lost} / {account.repeats}" + (f" ({account.most})" if account.most else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def failures(accounts: Accounts, chosen: set[tuple[str, Cell]]) -> list[str]:
    """Return one line for each thing that must not be."""
    found = [f"{broker} {cell}: it was not run" for broker, cell in sorted(chosen - accounts.keys())]
    for (broker, cell), account in accounts.items():
        limit = allowed(broker, cell)
        if account.trouble:
            found.append(f"{broker} {cell}: {account.trouble}")
        for count, what in ((account.lost, "lost"), (account.dead, "dead"), (account.invented, "invented")):
            if count:
                found.append(f"{broker} {cell}: {count} {what}")
        if (
            (cell.target, cell.how) in ACTS
            and account.acted < account.shots
            and cell.step in ACTS[cell.target, cell.how]
        ):
            found.append(f"{broker} {cell}: mqworker did not act in {account.shots - account.acted} shots")
        if account.most > limit:
            found.append(f"{broker} {cell}: {account.most} repeated by one shot, {limit} are allowed")
    return found


def put(path: Path, text: str) -> None:
    """Write it to a file, between the markers if it has them."""
    old = path.read_text() if path.exists() else ""
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}" if begin and end else f"{text}\n")
