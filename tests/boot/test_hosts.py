"""Hosts as they come: an ordinary user, a cache that is empty or cannot be, few descriptors, hardly an environment."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pykrun import blob
from tests.boot.conftest import NOBODY, become_nobody
from tests.boot.vm import Vm, finish, read_line
from tests.support.command import LAUNCH, Pykrun


@pytest.fixture
def uml(tool: Path, run_pykrun: Pykrun) -> Vm:
    """What is tried here happens before and around the engine; the quicker one will do."""
    return Vm("uml", tool, run_pykrun)


@pytest.mark.uml
@pytest.mark.root
@pytest.mark.parametrize("end", ["exit", "killed"])
def test_ordinary_user(tool: Path, run_pykrun: Pykrun, python_for_all: str, end: str) -> None:
    """Without any right, with a home of one's own; the init blob is given since nobody's cache has none."""
    home = run_pykrun.folder / "nobody"
    for folder in (home, home / "tmp", home / "cache"):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    init = shutil.copy(blob.find().path, home / "init")
    uml = Vm("uml", Path(shutil.copy(tool, home / "tool")), run_pykrun)
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / "cache"),
        blob.OVERRIDE: str(init),
    }
    words = ["/tool", "exit", "4"] if end == "exit" else ["/tool", "sleep", "100", "ready"]
    process = subprocess.Popen(
        [python_for_all, "-I", "-S", "-c", LAUNCH, *uml.options("--", *words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        preexec_fn=become_nobody,
        start_new_session=True,
    )
    if end == "exit":
        result = finish(process)
        assert (result.code, result.out, result.err) == (4, b"", b"")
    else:
        assert read_line(process) == b"ready\n"
        process.kill()
        finish(process)
    assert not list((home / "tmp").iterdir())


@pytest.mark.uml
def test_cold_cache_and_many_at_once(uml: Vm) -> None:
    """Whoever comes first fills the cache; nobody sees half a file."""
    cache = uml.pykrun.folder / "cache"
    cache.mkdir()
    environment = {"XDG_CACHE_HOME": str(cache), blob.OVERRIDE: str(blob.find().path)}
    processes = [
        uml.pykrun.start(
            uml.options("--", "/tool", "echo", str(number)),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    results = [finish(process) for process in processes]
    assert [(result.code, result.err) for result in results] == [(0, b"")] * 4
    assert [result.out for result in results] == [b"%d" % number for number in range(4)]


@pytest.mark.uml
def test_few_descriptors(uml: Vm) -> None:
    """More files than the soft limit of descriptors, which is ours to raise."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    words = [word for number in range(400) for word in ("--file", f"/files/{number}={uml.tool}")]
    result = uml.run(*words, "--", "/tool", "ops", "ls", "/files", prepare=limit)
    assert (result.code, result.err) == (0, b"")
    assert int(result.out.split()[0]) == 402


@pytest.mark.uml
def test_bare_environment(uml: Vm) -> None:
    """Neither HOME nor PATH: what is needed is found all the same."""
    command = ["env", "-i", f"{blob.OVERRIDE}={blob.find().path}", f"XDG_CACHE_HOME={uml.pykrun.folder / 'tmp' / 'c'}"]
    arguments = uml.options("--", "/tool", "echo", "hello")
    process = subprocess.Popen(
        [*command, sys.executable, "-I", "-S", "-c", LAUNCH, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )
    result = finish(process)
    shutil.rmtree(uml.pykrun.folder / "tmp" / "c")
    assert (result.code, result.out, result.err) == (0, b"hello", b"")


@pytest.mark.uml
def test_words_in_another_encoding(uml: Vm, tmp_path: Path) -> None:
    """Bytes stay bytes, whatever the host's locale takes them for."""
    locale = tmp_path / "en_US.ISO-8859-1"
    try:
        made = subprocess.run(["localedef", "-c", "-i", "en_US", "-f", "ISO-8859-1", locale], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no localedef")
    if not (locale / "LC_CTYPE").exists():
        pytest.skip(f"localedef cannot make a locale (apt-get install locales): {made.stderr!r}")
    words = [bytes(range(128, 256)), "é".encode(), b"\xe9", b"plain"]
    environment = {"LOCPATH": str(tmp_path), "LC_ALL": "en_US.ISO-8859-1"}
    pipe = subprocess.PIPE
    options: list[str | bytes] = [b"--env=" + b"K=\xe9", "--", "/tool"]
    for command, expected in (("argv", words), ("env", [b"K=\xe9"])):
        process = uml.pykrun.start(
            uml.options(*options, command, *words), env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        result = finish(process)
        assert (result.code, result.err) == (0, b"")
        assert set(result.lines()) >= set(expected)
