"""The wheel, built and installed into an environment that has nothing else but the packages it asks for."""

import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mqworker.exits import Exit

pytestmark = [pytest.mark.system, pytest.mark.long]

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "mqworker/cli/templates/energy_storage"
SOURCES = ("mqworker", "examples", "pyproject.toml", "README.md", "LICENSE")


def closure(requirements: list[str], extra: str = "") -> set[str]:
    """Return the names of all packages that these requirements bring, as they are installed here."""
    found: set[str] = set()
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            below = distribution(requirement.name).requires or []
            found |= {requirement.name, *closure([each for each in below if "extra ==" not in each])}
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: what a build leaves in the checkout would get into the next wheel."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, source / name)
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    (built,) = target.glob("mqworker-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of commands of an environment with the wheel, what it requires, numpy for the demo, and pytest."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    (about,) = packages.glob("mqworker-*.dist-info")
    needs = [
        line.partition(": ")[2] for line in (about / "METADATA").read_text().splitlines() if "Requires-Dist" in line
    ]
    for name in closure(needs, extra="examples") | closure(["pytest"]):  # copied: a test asks no package index
        for file in distribution(name).files or []:
            source = Path(str(distribution(name).locate_file(file)))
            if ".." not in file.parts and source.is_file():
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, packages / file)
    return folder / "bin"


def pip(*arguments: str | Path) -> None:
    """Run pip of the tests' environment."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(command: Path, *arguments: str, cwd: Path) -> str:
    """Run a command with hardly any environment; it must succeed. Returns stdout."""
    done = subprocess.run(
        [command, *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(cwd)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == Exit.OK, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_runs_in_an_empty_environment(installed, short_path):
    """The demo accounts for every message; a new project passes `check` and its own test."""
    assert "21 done, 3 failed: all accounted for" in run(installed / "mqworker", "demo", "-n", "24", cwd=short_path)
    run(installed / "mqworker", "init", "primes", cwd=short_path)
    project = short_path / "primes"
    config = project / "mqworker.toml"
    config.write_text(config.read_text() + "\n[control]\nport = 0\n")
    run(installed / "mqworker", "check", cwd=project)
    assert "4 passed" in run(installed / "python", "-m", "pytest", cwd=project)
    where = run(installed / "python", "-P", "-c", "import mqworker; print(mqworker.__file__)", cwd=project)
    assert Path(where).is_relative_to(installed.parent), "the wheel was tested, not this checkout"


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel):
    """Every file of mqworker/ is in the wheel, also those behind a link, and none that is not source."""
    here = (ROOT / "mqworker").rglob("*"), EXAMPLE.glob("*.py"), EXAMPLE.glob("*.toml")
    files = {str(path.relative_to(ROOT)) for found in here for path in found if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name for name in files if "__pycache__" not in name}
