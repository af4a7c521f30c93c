"""The scripts of the front door, on real files: when set-up is due, and what they say."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.house.sources import ROOT

TIMEOUT = 120
ODD_NAMES = ["plain", "two words", "100%", "a*b", "-x"]


class Checkout:
    """A copy of what decides whether set-up is due, with a cache of its own."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        for name in ("setup", "scripts/common.sh", "pyproject.toml"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.input = folder / "src" / "krun_init" / "main.py"
        self.input.parent.mkdir(parents=True)
        self.input.touch()

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script that has sourced common.sh with this checkout as $here."""
        return subprocess.run(
            ["sh", "-euc", f'here=$1; . "$here/scripts/common.sh"; {script}', "sh", str(self.folder)],
            env={**os.environ, "XDG_CACHE_HOME": str(self.cache)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def set_up(self, what: str = "run", venv: str = "") -> None:
        """Write the stamp as ./setup does at its end."""
        script = 'mkdir -p "$cache/setup"; find_python; printf "%s\\n%s\\n" "$python" "$1" > "$state.$2"'
        assert self.shell(f"set -- '{venv}' '{what}'; {script}").returncode == 0

    def ready(self, what: str = "run") -> bool:
        return self.shell(f"ready {what}").returncode == 0


@pytest.fixture(params=ODD_NAMES)
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / str(request.param), tmp_path / "cache")


def make_newer(path: Path) -> None:
    later = time.time() + 10
    os.utime(path, (later, later))


def test_set_up_is_due_until_it_was_done(checkout: Checkout) -> None:
    assert not checkout.ready()
    checkout.set_up()
    assert checkout.ready()


def test_set_up_is_due_when_an_input_changed(checkout: Checkout) -> None:
    checkout.set_up()
    make_newer(checkout.input)
    assert not checkout.ready()


def test_set_up_is_due_when_a_package_inside_the_guests_changed(checkout: Checkout) -> None:
    inner = checkout.input.parent / "inner" / "part.py"
    inner.parent.mkdir()
    inner.touch()
    checkout.set_up()
    compiled = inner.parent / "part.pyc"
    compiled.touch()
    make_newer(compiled)
    assert checkout.ready()
    make_newer(inner)
    assert not checkout.ready()


def test_set_up_is_due_when_a_script_changed(checkout: Checkout) -> None:
    checkout.set_up()
    make_newer(checkout.folder / "setup")
    assert not checkout.ready()


def test_set_up_is_due_when_the_interpreter_is_gone(checkout: Checkout) -> None:
    checkout.set_up()
    stamp = next((checkout.cache / "pykrun" / "setup").glob("*.run"))
    stamp.write_text("/nowhere/python3\n\n")
    assert not checkout.ready()


def test_set_up_is_due_when_the_virtual_environment_is_gone(checkout: Checkout) -> None:
    checkout.set_up("test", str(checkout.cache / "venv"))
    assert not checkout.ready("test")


def test_checkouts_have_stamps_of_their_own(tmp_path: Path) -> None:
    first, second = (Checkout(tmp_path / name, tmp_path / "cache") for name in ("one", "two"))
    first.set_up()
    assert first.ready()
    assert not second.ready()


def test_the_interpreter_is_a_real_one(checkout: Checkout) -> None:
    python = checkout.shell('find_python; printf %s "$python"').stdout
    assert Path(python).is_absolute()
    assert not Path(python).is_symlink()
    assert Path(python).read_bytes()[:4] == b"\x7fELF"


def test_usage() -> None:
    shown = subprocess.run([ROOT / "setup", "--help"], capture_output=True, text=True, timeout=TIMEOUT)
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: ./setup")
    wrong = subprocess.run([ROOT / "setup", "everything"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_the_demo_takes_no_words() -> None:
    shown = subprocess.run([ROOT / "demo", "--help"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (shown.returncode, shown.stdout.startswith("usage: ./demo")) == (0, True)
    wrong = subprocess.run([ROOT / "demo", "--nope"], capture_output=True, text=True, timeout=TIMEOUT)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("usage: ./demo")


@pytest.mark.root
def test_the_demo_says_in_a_line_that_nobody_can_hear_it(tmp_path: Path) -> None:
    os.mknod(tmp_path / "full", stat.S_IFCHR | 0o600, os.makedev(1, 7))
    with open(tmp_path / "full", "wb") as full:
        shown = subprocess.run([ROOT / "demo"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
    assert (shown.returncode, shown.stderr) == (1, "demo: standard output: No space left on device\n")


def test_docs_says_that_its_set_up_is_due(tmp_path: Path) -> None:
    result = subprocess.run(
        [ROOT / "scripts" / "docs", "--no-setup", tmp_path / "site"],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert (result.returncode, result.stdout, result.stderr) == (69, b"", b"")


def test_bench_lists_its_benchmarks() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert shown.returncode == 0, shown.stderr
    for name in ("blob", "boot", "run", "fuse", "memory", "many"):
        assert f"  {name} " in shown.stdout
