"""A mistake is one line on standard error and a status, never a traceback, and nothing is started."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.command import Pykrun

MISTAKES = {
    "engine": ["--engine", "nope", "--", "/x"],
    "accel": ["--accel", "nope", "--", "/x"],
    "option": ["--no-such-option", "--", "/x"],
    "cpus zero": ["--cpus", "0", "--", "/x"],
    "cpus word": ["--cpus", "many", "--", "/x"],
    "memory": ["--memory", "-5", "--", "/x"],
    "timeout": ["--timeout", "-1", "--", "/x"],
    "timeout nan": ["--timeout", "nan", "--", "/x"],
    "user": ["--user", "root:x", "--", "/x"],
    "rlimit name": ["--rlimit", "NOPE=1:2", "--", "/x"],
    "rlimit value": ["--rlimit", "NOFILE=5:2", "--", "/x"],
    "env": ["--env", "NO_SUCH_VARIABLE_HERE", "--", "/x"],
    "env file": ["--env-file", "/no/such/file", "--", "/x"],
    "hostname": ["--hostname", "", "--", "/x"],
    "file source": ["--file", "/x=/no/such/file", "--", "/x"],
    "file is a directory": ["--file", "/x=/", "--", "/x"],
    "file without =": ["--file", "/x", "--", "/x"],
    "file relative": ["--file", "x=/bin/true", "--", "/x"],
    "file with ..": ["--file", "/a/../x=/bin/true", "--", "/x"],
    "file twice": ["--text", "/x=a", "--text", "/x=b", "--", "/x"],
    "file below a file": ["--text", "/x=a", "--text", "/x/y=b", "--", "/x"],
    "root as a file": ["--text", "/=a", "--", "/x"],
    "name too long": ["--text", "/" + "n" * 256 + "=a", "--", "/x"],
    "secret source": ["--secret", "/x=/no/such/file", "--", "/x"],
    "dir": ["--dir", "", "--", "/x"],
    "kernel": ["--kernel", "/no/such/kernel", "--", "/x"],
    "modules": ["--modules", "/no/such/modules", "--", "/x"],
    "boot log": ["--boot-log", "/no/such/folder/log", "--", "/x"],
    "net": ["--net", "bridge", "--", "/x"],
    "publish": ["--publish", "80", "--", "/x"],
    "publish address": ["--publish", "nowhere:8080:80", "--", "/x"],
    "publish without a network": ["--net", "none", "--publish", "8080:80", "--", "/x"],
    "publish twice": ["--publish", "8080:80", "--publish", "8080:81", "--", "/x"],
    "empty command": ["--", ""],
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_one_line(run_pykrun: Pykrun, words: list[str]) -> None:
    result = run_pykrun(["run", *words], timeout=30)
    assert result.returncode in (2, 125)
    assert result.stdout == b""
    assert result.stderr.startswith(b"pykrun: ")
    assert result.stderr.count(b"\n") == 1
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("engine", ["auto", "uml", "qemu"])
def test_no_engine(run_pykrun: Pykrun, tmp_path: Path, engine: str) -> None:
    """The message names what to install."""
    result = run_pykrun(["run", "--engine", engine, "--text", "/x=x", "--", "/x"], env={"PATH": str(tmp_path)})
    assert result.returncode == 125
    assert result.stdout == b""
    assert result.stderr.startswith(b"pykrun: ")
    assert b"install" in result.stderr
    assert b"Traceback" not in result.stderr


def test_error_without_a_place_to_write_it(run_pykrun: Pykrun) -> None:
    with open("/dev/full", "wb") as full:
        process = run_pykrun.start(["run", "--engine", "nope", "--", "/x"], stdout=full, stderr=full)
        assert process.wait(30) in (2, 125)


def test_help_is_no_error(run_pykrun: Pykrun) -> None:
    result = run_pykrun(["run", "--help"])
    assert (result.returncode, result.stderr) == (0, b"")
    for option in (b"--file", b"--text", b"--secret", b"--dir", b"--engine", b"--kernel-arg", b"--timeout", b"--tty"):
        assert option in result.stdout
    assert b"examples:" in result.stdout


def test_help_into_a_closed_pipe(run_pykrun: Pykrun) -> None:
    process = run_pykrun.start(["run", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=30)
    assert b"Traceback" not in errors
    assert process.returncode in (0, 1, -signal.SIGPIPE)
