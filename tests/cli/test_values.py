"""Option values: what is accepted, and that the rest gets one clear message."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pykrun.cli import values
from pykrun.cli.environment import environment
from pykrun.errors import UsageError
from pykrun.start_data import RLIM_INFINITY, User


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a:644", ("a", 0o644)),
        ("a:0755", ("a", 0o755)),
        ("a:b", ("a:b", None)),
        ("a:99", ("a:99", None)),
        ("a", ("a", None)),
    ],
)
def test_modes(text: str, result: tuple[str, int | None]) -> None:
    assert values.with_mode(text) == result


def test_assignments() -> None:
    assert values.assignment("--file", "/a=b=c") == ("/a", "b=c")
    assert values.assignment("--text", "/a=") == ("/a", "")
    for bad in ("/a", "=b"):
        with pytest.raises(UsageError, match="--file"):
            values.assignment("--file", bad)


def test_users() -> None:
    assert values.user("5") == User(uid=5, gid=5)
    assert values.user("5:6") == User(uid=5, gid=6)
    for bad in ("", "root", "1:", ":1", "1:2:3", "-1", str(2**32 - 1), "²"):
        with pytest.raises(UsageError, match="--user"):
            values.user(bad)


def test_rlimits() -> None:
    assert values.rlimit("nofile=5:6") == (resource.RLIMIT_NOFILE, 5, 6)
    assert values.rlimit("RLIMIT_CORE=0") == (resource.RLIMIT_CORE, 0, 0)
    assert values.rlimit("as=1:unlimited") == (resource.RLIMIT_AS, 1, RLIM_INFINITY)
    for bad in ("nofile", "nofile=", "files=1", "nofile=2:1", "nofile=a:b", "nofile=-2"):
        with pytest.raises(UsageError, match="--rlimit"):
            values.rlimit(bad)


def test_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERE", "there")
    monkeypatch.delenv("NOT_HERE", raising=False)
    file = tmp_path / "env"
    file.write_bytes(b"# comment\nA=1\n\nB=x=y\r\nC=\xff\n")
    result = environment(["A=2", "HERE", "E="], [str(file)])
    assert result == {"A": "2", "B": "x=y", "C": "\udcff", "HERE": "there", "E": ""}
    for bad in ("NOT_HERE", "=x", ""):
        with pytest.raises(UsageError, match="--env"):
            environment([bad], [])
    file.write_text("nonsense\n")
    with pytest.raises(UsageError, match=":1 is not K=V"):
        environment([], [str(file)])


def test_numbers_and_names() -> None:
    assert values.positive("--cpus", "3") == 3
    assert values.seconds("--timeout", "0.5") == 0.5
    assert values.hostname("box") == "box"
    for bad in ("0", "-1", "x", "1.5", "", "²"):
        with pytest.raises(UsageError, match="--cpus"):
            values.positive("--cpus", bad)
    for bad in ("0", "nan", "inf", "-1", "x"):
        with pytest.raises(UsageError, match="--timeout"):
            values.seconds("--timeout", bad)
    for bad in ("", "a b", "a/b", "x" * 65):
        with pytest.raises(UsageError, match="--hostname"):
            values.hostname(bad)
