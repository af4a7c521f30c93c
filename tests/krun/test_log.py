"""The log of the API is Python's, as loud as it was asked for, where it was asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pykrun import krun
from tests.support.command import FIND

LINE = re.compile(rb"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z (\w+) pykrun\.krun\] (.*)\n")

PROGRAM = f"""{FIND}
from pykrun.krun import *
import sys
CODE
krun_free_ctx(77)
krun_set_gpu_options(krun_create_ctx(), 0)
"""


def said(code: str, **environment: str) -> bytes:
    """What a program writes to standard error that fails once and is warned once."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM.replace("CODE", code)],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert not done.stdout
    return done.stderr


def levels(code: str, **environment: str) -> list[bytes]:
    return [match[1] for match in LINE.finditer(said(code, **environment))]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", []),
        ("krun_set_log_level(0)", []),
        ("krun_set_log_level(1)", [b"ERROR"]),
        ("krun_set_log_level(2)", [b"ERROR", b"WARNING"]),
        ("krun_set_log_level(99)", [b"ERROR", b"WARNING"]),
        ("krun_init_log(-1, 2, 2, 1)", [b"ERROR", b"WARNING"]),
        ("krun_init_log(2, 1, 2, 1)", [b"ERROR"]),
        ("krun_set_log_level(0); krun_set_log_level(2)", [b"ERROR", b"WARNING"]),
        ("import logging", []),
    ],
)
def test_levels(code: str, expected: list[bytes]) -> None:
    assert levels(code, RUST_LOG="") == expected


def test_the_environment_overrides() -> None:
    assert levels("krun_set_log_level(2)", RUST_LOG="off") == []
    assert levels("krun_init_log(2, 0, 2, 0)", RUST_LOG="other=off,pykrun=error") == [b"ERROR"]
    assert levels("krun_init_log(2, 2, 2, 1)", RUST_LOG="off") == [b"ERROR", b"WARNING"]


def test_colours() -> None:
    assert b"\x1b[31mERROR\x1b[0m" in said("krun_init_log(2, 2, 1, 1)")
    assert b"\x1b" not in said("krun_init_log(2, 2, 0, 1)")  # a pipe is no terminal
    assert b"\x1b" in said("krun_init_log(2, 2, 0, 0)", RUST_LOG_STYLE="always")


def test_a_program_with_its_own_logging() -> None:
    """Its handlers get the lines, once."""
    code = "import logging; logging.basicConfig(format='mine: %(message)s'); krun_set_log_level(2)"
    lines = said(code).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(b"mine: ") for line in lines)


@pytest.fixture
def silent_again() -> Iterator[None]:
    yield
    assert krun.krun_set_log_level(0) == 0
    import logging

    logging.getLogger("pykrun.krun").propagate = True
    logging.getLogger("pykrun.krun").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("silent_again")
def test_a_descriptor_becomes_the_logs_own() -> None:
    read, write = os.pipe()
    with open(read, "rb") as stream:
        assert krun.krun_init_log(write, 5, 2, 1) == 0
        assert krun.krun_free_ctx(-1) < 0
        assert krun.krun_init_log(2, 0, 2, 1) == 0  # closes the first one
        match = LINE.fullmatch(stream.read())
    assert match is not None
    assert match[1] == b"ERROR"
    assert match[2].startswith(b"krun_free_ctx: ENOENT: ")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write)


@pytest.mark.usefixtures("silent_again")
def test_the_same_descriptor_again_and_another_level() -> None:
    read, write = os.pipe()
    with open(read, "rb") as stream:
        assert krun.krun_init_log(write, 5, 2, 1) == 0
        assert krun.krun_init_log(write, 0, 2, 1) == 0  # stays open
        assert krun.krun_free_ctx(-1) < 0  # not said
        assert krun.krun_set_log_level(1) == 0  # nothing but the level
        assert krun.krun_free_ctx(-2) < 0
        assert krun.krun_init_log(2, 0, 2, 1) == 0  # closes it
        lines = stream.read().splitlines()
    assert [line.rpartition(b" ")[2] for line in lines] == [b"-2"]


@pytest.mark.usefixtures("silent_again")
def test_a_reader_that_is_gone() -> None:
    read, write = os.pipe()
    assert krun.krun_init_log(write, 5, 2, 1) == 0
    os.close(read)
    assert krun.krun_free_ctx(-1) < 0
    assert krun.krun_init_log(2, 0, 2, 1) == 0
