"""What is true of the repository as a whole: no trace of a machine, one version, every script works from anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from pykrun.version import VERSION
from tests.house.sources import ROOT, SRC, tracked

FRONT_DOOR = ("setup", "pykrun", "demo", "test", "bench", ".ci/run")

# Put together at run time, or this file would be the first to break its rule.
MACHINE_PATHS = (
    r'(?<!here")' + re.escape(str(ROOT)),
    re.escape(str(Path.home() / ".")) + "[a-z]",
    "/wo" + "rk/(main|shared)",
    "/tmp/" + "lab",
    r"\.py" + "env/",
)
REGISTRIES = (
    "py" + "pi.org",
    "python" + "hosted",
    "deb." + "debian.org",
    "npm" + "js",
    "docker" + r"\.io",
    "crates" + r"\.io",
)


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


@pytest.mark.parametrize("pattern", MACHINE_PATHS)
def test_no_path_of_a_machine(pattern: str) -> None:
    found = [str(path.relative_to(ROOT)) for path in tracked() if re.search(pattern, text_of(path))]
    assert not found


@pytest.mark.parametrize("pattern", REGISTRIES)
def test_no_registry_host(pattern: str) -> None:
    found = [str(path.relative_to(ROOT)) for path in tracked() if re.search(pattern, text_of(path))]
    assert not found


def test_one_version() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "pykrun.version.VERSION"
    versions = re.findall(r"^## \[?([^\]\s]+)\]?", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert next(word for word in versions if word != "Unreleased") == VERSION


def test_typed() -> None:
    assert (SRC / "pykrun" / "py.typed").is_file()


def test_what_is_installed_is_complete() -> None:
    """An installed pykrun builds the blob too: every file of src that is no Python belongs to the package's data."""
    patterns = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["setuptools"]["package-data"]
    matched = {path for package, words in patterns.items() for word in words for path in (SRC / package).glob(word)}
    assert {path for path in tracked() if path.is_relative_to(SRC) and path.suffix != ".py"} - matched == set()


@pytest.mark.parametrize("name", FRONT_DOOR)
def test_front_door_is_executable(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md", "docs/README.md"])
def test_there_is_a(name: str) -> None:
    assert (ROOT / name).stat().st_size > 100


def links() -> list[tuple[str, str]]:
    """(page, target) of every relative link in the Markdown pages."""
    found = []
    for page in tracked():
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(page)):
                if "://" not in target:
                    found.append((str(page.relative_to(ROOT)), target))
    return found


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_somewhere(page: str, target: str) -> None:
    assert (ROOT / page).parent.joinpath(target).exists()


def test_every_package_is_explained() -> None:
    """docs/dependencies.md speaks of each package that ./setup installs and each that pyproject.toml asks for."""
    explained = text_of(ROOT / "docs" / "dependencies.md")
    names = re.findall(r"(?<!{)\b([a-z][a-z0-9-]+):[\w/]", text_of(ROOT / "setup"))
    assert {"user-mode-linux", "shellcheck", "python3-venv"} <= set(names)
    needs = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]["test"]
    names += [re.split(r"[<>=]", need)[0] for need in needs]
    assert names
    assert [name for name in names if f"`{name}`" not in explained] == []


def test_the_command_works_from_anywhere_and_through_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(ROOT / "pykrun")
    result = subprocess.run([link, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"pykrun {VERSION}\n", "")
