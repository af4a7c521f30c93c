"""Where the library is, when it is built again, and what happens if it cannot start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pykrun import clib
from pykrun.clib import lookup
from tests.clib.library import FLAGS, HERE, ROOT, environment, folder
from tests.support.command import Pykrun

TIMEOUT = 300.0


def test_the_command_says_where(run_pykrun: Pykrun) -> None:
    done = run_pykrun(["lib", "--path"], timeout=TIMEOUT)
    assert (done.returncode, done.stdout.decode()) == (0, f"{folder()}\n")
    assert run_pykrun(["lib"]).stdout == done.stdout
    for name in ("libkrun.so.1", "libkrun.so", "libkrun.h", "pkgconfig/libkrun.pc"):
        assert (folder() / name).exists()


def test_it_is_found_as_long_as_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clib.find() == folder()
    monkeypatch.setattr(lookup, "source_key", lambda python: "another")
    assert clib.find() is None


class Copy:
    """pykrun in a folder of its own, with a library and a program that uses it."""

    def __init__(self, place: Path) -> None:
        self.source = place / "src"
        shutil.copytree(ROOT / "src", self.source, ignore=shutil.ignore_patterns("__pycache__"))
        self.cache = place / "cache"
        self.library = self.build()
        self.program = place / "ways"
        words = [f"-I{self.library}", f"-L{self.library}", f"-Wl,-rpath,{self.library}"]
        command = ["gcc", *FLAGS, *words, "-o", str(self.program), str(HERE / "ways.c"), "-lkrun"]
        subprocess.run(command, check=True, timeout=TIMEOUT)

    def build(self) -> Path:
        """What `./setup lib` runs."""
        done = subprocess.run(
            [sys.executable, "-s", "-P", "-m", "pykrun.clib"],
            env={**os.environ, "PYTHONPATH": str(self.source), "XDG_CACHE_HOME": str(self.cache)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *words], env=environment(), capture_output=True, text=True, timeout=TIMEOUT
        )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder()
    return Copy(tmp_path_factory.mktemp("copy"))


def test_sources_that_changed_since_count(copy: Copy, tmp_path: Path) -> None:
    """In a checkout, between an edit and the next set-up."""
    edited = copy.source / "pykrun" / "krun" / "vm.py"
    original = edited.read_text()
    edited.write_text(original + "\n# longer\n")
    try:
        assert (done := copy.run("plain")).returncode == 0, done
        if os.geteuid() == 0:
            assert (done := copy.run("chroot", str(tmp_path))).returncode == 0, done
        before = (copy.library / "modules").read_bytes()
        assert copy.build() == copy.library, "programs know this name"
        assert (copy.library / "modules").read_bytes() != before
    finally:
        edited.write_text(original)


def test_a_start_that_fails_is_never_a_success(copy: Copy) -> None:
    """What cffi alone would do: say that there is a traceback, and return 0 from every function."""
    modules = copy.library / "modules"
    kept = modules.read_bytes()
    broken = copy.source / "pykrun" / "krun" / "vm.py"
    original = broken.read_text()
    try:
        modules.unlink()
        done = copy.run("plain")
        assert (done.returncode, done.stdout) == (125, "")
        assert "FileNotFoundError" in done.stderr
        assert "libkrun: pykrun does not start in this process" in done.stderr.splitlines()[-1]
        modules.write_bytes(kept)
        broken.write_text("1 / 0\n")
        done = copy.run("plain")
        assert (done.returncode, done.stdout) == (125, "")
        assert "ZeroDivisionError" in done.stderr
    finally:
        modules.write_bytes(kept)
        broken.write_text(original)


def test_an_exception_in_a_function_is_an_error(copy: Copy) -> None:
    """With everything in place, a function that breaks says -EIO, and the next one works."""
    source = copy.source / "pykrun" / "krun" / "workload.py"
    original = source.read_text()
    source.write_text(original.replace('path = text("workdir_path", workdir_path)', "raise KeyboardInterrupt"))
    try:
        done = copy.run("plain")
    finally:
        source.write_text(original)
    assert "workdir: -5, not -22" in done.stdout
    assert "config" not in done.stdout
