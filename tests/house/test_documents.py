"""The pages say what is so."""

from __future__ import annotations

import argparse
import importlib
import re

import pytest

from pykrun.cli import COMMANDS
from tests.house.sources import ROOT

CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
EVERYWHERE = {"--help", "--debug", "--version"}


def options(command: str) -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"pykrun.cli.{command}").add_arguments(parser)
    return {word for action in parser._actions for word in action.option_strings if word.startswith("--")}


def section(command: str) -> str:
    """The page's part on one command: its heading's line and everything up to the next one."""
    found = re.search(rf"^## pykrun {command}\b.*?(?=^## |\Z)", CLI, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/cli.md has no section on pykrun {command}"
    return found[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described_and_no_other(command: str) -> None:
    described = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section(command)))
    assert described - EVERYWHERE == options(command)


def test_every_variable_is_used() -> None:
    table = CLI[CLI.index("## Environment") :]
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    sources += [(ROOT / name).read_text(encoding="utf-8") for name in ("examples/demo.py", "setup")]
    unused = [
        name for name in re.findall(r"^\| `(\w+)`", table, re.MULTILINE) if not any(name in text for text in sources)
    ]
    assert set(unused) <= {"TMPDIR"}  # which Python's tempfile reads


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()
