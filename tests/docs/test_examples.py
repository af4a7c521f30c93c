"""The examples of the pages do what the pages say.

A fenced block after the comment `<!-- run -->` is run, on User Mode Linux, in an empty folder. A `text` block after
`<!-- output -->` is what it writes to both outputs together; `...` in it stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import Block, pages
from tests.house.sources import ROOT
from tests.support.command import cache_folder

TIMEOUT = 180


def examples() -> list[tuple[str, Block, str | None]]:
    """Name, block and expected output of each runnable block."""
    found = []
    for page in pages():
        for number, block in enumerate(page.blocks):
            if block.mark == "run":
                following = page.blocks[number + 1] if number + 1 < len(page.blocks) else None
                expected = following.text if following is not None and following.mark == "output" else None
                found.append((f"{page.name}:{block.line}", block, expected))
    return found


EXAMPLES = examples()


def command(block: Block, folder: Path) -> list[str]:
    """The words that run a block as its reader would."""
    if block.language == "python":
        script = folder / "example.py"
        script.write_text(block.text, encoding="utf-8")
        return [sys.executable, "-X", "dev", str(script)]
    return ["sh", "-eu", "-c", block.text]


@pytest.mark.uml
@pytest.mark.parametrize(
    ("block", "expected"), [example[1:] for example in EXAMPLES], ids=[example[0] for example in EXAMPLES]
)
def test_example(block: Block, expected: str | None, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "pykrun").symlink_to(ROOT / "pykrun")
    folder = tmp_path / "work"
    folder.mkdir()
    result = subprocess.run(
        command(block, tmp_path),
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "XDG_CACHE_HOME": str(cache_folder()),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stdout
    if expected is not None:
        pattern = ".*?".join(map(re.escape, expected.rstrip("\n").split("...")))
        assert re.fullmatch(pattern, result.stdout.rstrip("\n"), re.DOTALL), result.stdout


def test_there_are_examples_of_both_kinds() -> None:
    assert {block.language for _, block, _ in EXAMPLES} == {"sh", "python"}
    assert {block.mark for page in pages() for block in page.blocks} <= {"", "run", "output"}
