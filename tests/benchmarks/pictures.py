"""Pictures of a saved run: `python -m tests.benchmarks.pictures RUN.json` writes SVG files below docs/pictures.

One picture for each case in BARS and LINES that the run has: bars for contestants, a line for growth. Each picture has
colours for light and dark, chosen by the reader's system, and says on which machine and when it was measured.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Case, read, shown
from tests.benchmarks.saved import load

FOLDER = Path(__file__).parents[2] / "docs/pictures"
BARS = {  # by name of the case, the name of the file
    "a": "benchmark-rate",
    "b": "benchmark-cpu",
    "d": "benchmark-mixed",
    "e": "benchmark-latency",
    "h": "benchmark-memory",
}
LINES = {
    "l backlogs": "benchmark-growth-backlog",
    "l Consumers": "benchmark-growth-consumers",
    "l stages in a row": "benchmark-growth-stages",
}
WIDTH, ROW, TOP, FOOT = 720, 34, 64, 40
LEFT, RIGHT = 160, 110  # of bars: for the names, for the figures
PLOT = 220  # height of a line's field
STYLE = """<style>
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .small { font-size: 12px; fill: #59636e }
  .ours { fill: #0969da } .line { stroke: #0969da; stroke-width: 2.5; fill: none }
  .other { fill: #afb8c1 } .axis { stroke: #afb8c1 } .range { stroke: #59636e; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    .ours { fill: #4493f8 } .line { stroke: #4493f8 }
    .other { fill: #656c76 } .axis { stroke: #656c76 } .range { stroke: #c9d1d9 }
  }
</style>"""


def bars(case: Case, foot: str) -> str:
    """Return a picture with a bar for each contestant, the best first, and the range of its rounds."""
    names = sorted(case.measured(), key=case.median, reverse=not case.cost)
    top = max(max(one[name] for one in case.rounds) for name in names) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / top
    parts = []
    for row, name in enumerate(names):
        middle = TOP + row * ROW + ROW / 2
        figures, long = [one[name] for one in case.rounds], case.median(name) * scale
        kind = "ours" if name == case.subject else "other"
        parts += [
            f'<text x="{LEFT - 10}" y="{middle + 5:.1f}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{middle - 10:.1f}" height="20" width="{long:.1f}"/>',
            (
                f'<line class="range" x1="{LEFT + min(figures) * scale:.1f}" x2="{LEFT + max(figures) * scale:.1f}"'
                f' y1="{middle:.1f}" y2="{middle:.1f}"/>'
            ),
            f'<text x="{LEFT + max(figures) * scale + 8:.1f}" y="{middle + 5:.1f}">{shown(case.median(name))}</text>',
        ]
    return _picture(case, foot, TOP + len(names) * ROW + FOOT, parts)


def line(case: Case, foot: str) -> str:
    """Return a picture with a point for each size, in the order of their numbers, joined by a line."""
    names = sorted(case.measured(), key=_number)
    top = 1.25 * max(case.median(name) for name in names) or 1.0
    step = (WIDTH - 160) / max(1, len(names) - 1)
    points = [
        (80 + at * step, TOP + PLOT - case.median(name) / top * PLOT, name, case.median(name))
        for at, name in enumerate(names)
    ]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    parts = [
        f'<line class="axis" x1="60" x2="{WIDTH - 60}" y1="{TOP + PLOT}" y2="{TOP + PLOT}"/>',
        f'<polyline class="line" points="{joined}"/>',
    ]
    for x, y, name, figure in points:
        parts += [
            f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
            f'<text x="{x:.1f}" y="{y - 12:.1f}" text-anchor="middle">{shown(figure)}</text>',
            f'<text class="small" x="{x:.1f}" y="{TOP + PLOT + 18}" text-anchor="middle">{escape(name)}</text>',
        ]
    return _picture(case, foot, TOP + PLOT + 24 + FOOT, parts)


def pictures(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file."""
    machine, versions = run["machine"], run["versions"]
    foot = (
        f"{machine['cpu']}, {machine['cores']} cores shared with the broker; RabbitMQ {versions.get('RabbitMQ', '')},"
        f" Python {versions['Python']}; {run['date'][:10]}"
    )
    cases = {case.name: case for case in map(read, run["cases"])}
    for drawn, names in ((bars, BARS), (line, LINES)):
        for name, file in names.items():
            if name in cases:
                yield f"{file}.svg", drawn(cases[name], foot)


def _picture(case: Case, foot: str, height: float, parts: list[str]) -> str:
    better = "less is better" if case.cost else "more is better"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img">',
            f"<title>{escape(case.what)}, {escape(case.unit)}</title>",
            STYLE,
            f'<text class="title" x="16" y="26">{escape(case.what)}</text>',
            (
                f'<text class="small" x="16" y="46">{escape(case.unit)}, {better}; median of'
                f" {len(case.rounds)} rounds</text>"
            ),
            *parts,
            f'<text class="small" x="16" y="{height - 14:.0f}">{escape(foot)}</text>',
            "</svg>\n",
        ]
    )


def _number(name: str) -> int:
    """Return the number that a contestant's name begins with."""
    found = re.match(r"[\d,]+", name)
    return int(found[0].replace(",", "")) if found else 0


def main() -> int:
    """Write them; returns 1 if the run has none of the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a file that scripts/bench --json has written")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    asked = parser.parse_args()
    written = 0
    for name, text in pictures(load(asked.run)):
        (asked.folder / name).write_text(text)
        print(asked.folder / name)
        written += 1
    return int(not written)


if __name__ == "__main__":
    sys.exit(main())
