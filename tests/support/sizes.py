"""The sizes of the package, as docs/architecture.md gives them: `python -m tests.support.sizes`.

Prints the number of modules, their lines, the median and the largest ones, and the classes with most methods.
"""

import ast
import statistics
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mqworker"
MOST = 12  # rows of each list


def main() -> None:
    """Measure and print."""
    modules: list[tuple[int, str]] = []
    classes: list[tuple[int, str]] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(), str(path.relative_to(PACKAGE))
        modules.append((len(text.splitlines()), name))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
                classes.append((len(methods), f"{node.name} ({name})"))
    lines = [count for count, _ in modules]
    print(f"{len(modules)} modules, {sum(lines):,} lines, median {statistics.median(lines):g}")
    for title, found in (("lines", modules), ("methods", classes)):
        print(f"\n{title}")
        for count, what in sorted(found, reverse=True)[:MOST]:
            print(f"{count:5} {what}")


if __name__ == "__main__":
    main()
