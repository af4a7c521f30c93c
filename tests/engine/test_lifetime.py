"""Whoever is killed, nothing is left: no process, mount, file, socket or folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import guest
from tests.sandbox.prison import ROOT, wait_until_gone
from tests.sandbox.test_jail import descendants


def traces(temporary: Path) -> set[str]:
    """Everything that an engine could leave on the host."""
    places = (Path("/dev/shm"), temporary, Path.home() / ".uml")
    files = {str(path) for place in places if place.is_dir() for path in place.iterdir() if path.name != "guest.cpio"}
    return files | set(Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private TMPDIR; the test fails if anything is left there or elsewhere."""
    tmp_path.chmod(0o777)
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    before = traces(folder)
    yield folder
    deadline = time.monotonic() + 10
    while (left := traces(folder) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def start(engine: str, temporary: Path, *words: str) -> tuple[subprocess.Popen[str], int]:
    """Start a launcher; return it and the keeper's pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.engine.launcher", engine, str(temporary), *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().split()
    if line[:1] != ["up"]:
        process.kill()
        process.communicate(timeout=20)
        pytest.fail(f"the launcher did not come up: {line}")
    return process, int(line[1])


LEVELS = pytest.mark.parametrize("words", [(), ("deny",)], ids=["namespaces", "reduced"])


@LEVELS
@pytest.mark.parametrize("victim", ["launcher", "keeper", "engine"])
def test_kill_9_of_any_one_ends_the_rest(engine: str, temporary: Path, victim: str, words: tuple[str, ...]) -> None:
    if victim == "keeper" and words:
        pytest.skip("without a pid namespace only the keeper can end stubs and remove the folder")
    process, keeper = start(engine, temporary, *words)
    family = [keeper, *descendants(keeper)]
    assert len(family) > 1
    try:
        os.kill({"launcher": process.pid, "keeper": keeper, "engine": family[1]}[victim], signal.SIGKILL)
        for pid in family[1:]:
            wait_until_gone(pid)
    finally:
        process.kill()
        process.communicate(timeout=20)
    wait_until_gone(keeper)


@LEVELS
@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.05])
def test_kill_9_of_the_launcher_while_it_starts(
    engine: str, temporary: Path, delay: float, words: tuple[str, ...]
) -> None:
    process, keeper = start(engine, temporary, "now", *words)
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=20)
    wait_until_gone(keeper)


def test_ctrl_c_reaches_neither_keeper_nor_engine(engine: str, temporary: Path) -> None:
    """A terminal's signals go to the whole foreground process group; ending the VM is the supervisor's decision."""
    process, keeper = start(engine, temporary)
    family = [keeper, *descendants(keeper)]
    try:
        for pid in family[:2]:
            assert os.getpgid(pid) != os.getpgid(family[1]) or pid == family[1]
        os.kill(keeper, signal.SIGINT)
        os.kill(keeper, signal.SIGTERM)
        time.sleep(0.2)
        assert all(Path(f"/proc/{pid}").exists() for pid in family[:2])
    finally:
        process.kill()
        process.communicate(timeout=20)
    for pid in family:
        wait_until_gone(pid)


def test_ten_boots_leave_nothing(engine: str, temporary: Path, tmp_path: Path) -> None:
    for _ in range(10 if engine == "uml" else 2):
        guest.run(guest.choose(engine), tmp_path, "echo > /dev/null")
    assert list(temporary.iterdir()) == []
