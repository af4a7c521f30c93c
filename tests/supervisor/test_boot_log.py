"""Where the kernel's console goes: whole into a file, as far as a slow reader follows into a pipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.supervisor.console import BootLog


def test_a_file_gets_everything(tmp_path: Path) -> None:
    log = BootLog(str(tmp_path / "log"))
    for _ in range(3):
        assert log.write([memoryview(b"x" * 100_000), memoryview(b"\n")]) == 100_001
    log.close()
    assert (tmp_path / "log").read_bytes() == (b"x" * 100_000 + b"\n") * 3
    assert log.text.endswith(b"x\n")


def test_a_reader_that_stalls_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log = BootLog(str(path))
        for _ in range(50):
            assert log.write([memoryview(b"y" * 100_000)]) == 100_000
        got = os.read(reader, 1 << 20)
        assert got
        log.write([memoryview(b"after\n")])
        while True:
            try:
                got += os.read(reader, 1 << 20)
            except BlockingIOError:
                break
        assert got.endswith(b"after\n"), "who catches up hears again"
        log.close()
    finally:
        os.close(reader)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--boot-log: cannot write '.*nowhere/log': No such file"):
        BootLog(str(tmp_path / "nowhere/log"))
