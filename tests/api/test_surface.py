"""The public API changes on purpose only, and says its types."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pykrun
from pykrun import aio
from tests.api import surface
from tests.house.sources import ROOT

KNOWN = Path(__file__).with_name("surface.txt")


def test_the_public_api_is_the_one_that_was_announced() -> None:
    """After an intended change: `python -m tests.api.surface > tests/api/surface.txt`, and a line in CHANGELOG.md."""
    assert surface.describe() == KNOWN.read_text(encoding="utf-8")


def test_no_public_name_is_untyped() -> None:
    assert surface.untyped() == []


def test_every_public_name_is_explained() -> None:
    names = [(module, name) for module in (pykrun, aio) for name in module.__all__]
    constants = {"DEVNULL", "PIPE", "STDOUT", "__version__"}
    assert [name for module, name in names if name not in constants and not getattr(module, name).__doc__] == []
    for one in (pykrun.MicroVM, aio.MicroVM, pykrun.Root, pykrun.Result):
        public = {name: member for name, member in vars(one).items() if not name.startswith("_")}
        assert [name for name, member in public.items() if callable(member) and not member.__doc__] == []


def test_both_faces_have_the_same_names() -> None:
    ours = {name for name in dir(pykrun.MicroVM) if not name.startswith("_")}
    theirs = {name for name in dir(aio.MicroVM) if not name.startswith("_")}
    assert ours - theirs == {"poll"}  # which is `exit_code`, as with asyncio's `returncode`
    assert theirs <= ours
    assert set(aio.__all__) < set(pykrun.__all__)


def test_importing_pykrun_imports_nothing_that_takes_its_time() -> None:
    heavy = ("subprocess", "asyncio", "typing", "dataclasses", "pathlib", "socket", "re", "inspect")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import pykrun; print(*({heavy} & sys.modules.keys()))"
    )
    program = program.replace(f"({heavy} &", f"(set({heavy}) &")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"\n"


def test_the_supervisor_does_without_them_until_its_guest_boots() -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import pykrun.shim.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, check=True, timeout=60)
    heavy = {"subprocess", "asyncio", "dataclasses", "inspect", "argparse", "logging", "json"}
    assert heavy & set(done.stdout.decode().split()) == set()


def test_pyright_accepts_the_examples(tmp_path: Path) -> None:
    program = shutil.which("pyright") or shutil.which("basedpyright")
    if program is None:
        pytest.skip("no pyright on PATH (npm install -g pyright)")
    settings = {
        "include": [str(ROOT / "examples")],
        "extraPaths": [str(ROOT / "src")],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run([program, "-p", tmp_path], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
