"""A secret that the guest has not asked for yet lies in the supervisor's memory and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.boot.vm import Vm, descendants, finish, read_line
from tests.support.memory import found_in_memory


@pytest.mark.root  # others may not look into processes that gave up their rights
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_only_the_supervisor_has_a_secret(vm_once: Vm, tmp_path: Path, kind: str) -> None:
    secret = os.urandom(30_000).hex().encode()  # fits into a pipe
    needles = {secret[:48], secret[-48:]}
    read, write = os.pipe()
    os.write(write, secret)
    os.close(write)
    (tmp_path / "key").write_bytes(secret)
    path = tmp_path / "key" if kind == "file" else f"/proc/self/fd/{read}"
    (tmp_path / "disk").write_bytes(bytes(4096))  # on User Mode Linux its server is a copy of the supervisor
    options = ("--secret", f"/key={path}", "--disk", str(tmp_path / "disk"))
    process = vm_once.start(*options, "--", "/tool", "sleep", "100", "ready", pass_fds=[read])
    os.close(read)
    assert read_line(process) == b"ready\n"
    below = descendants(process.pid)
    assert len(below) >= 2, "no keeper and engine"
    found = {entry: found_in_memory(entry.pid, needles) for entry in below}
    own = found_in_memory(process.pid, needles)
    process.terminate()
    finish(process, limit=30)
    assert own == needles, "the search finds nothing"
    assert not any(found.values()), found


@pytest.mark.parametrize("below", [False, True], ids=["virtual", "shared"])
def test_a_secret_is_the_workloads(vm_once: Vm, busybox: Path, tmp_path: Path, below: bool) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "tree").mkdir()
    options = ["--user", "65534:7", "--secret", f"/key={tmp_path / 'key'}", "--file", f"/cat={busybox}:0755"]
    options += ["--root", str(tmp_path / "tree"), "--read-only"] if below else []
    result = vm_once.run(*options, "--", "/cat", "/key")
    assert (result.code, result.out) == (0, b"secret\n"), result
