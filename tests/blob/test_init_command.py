"""`pykrun init`."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from pykrun import blob
from tests.support.command import Pykrun


def test_it_tells_where_and_what(run_pykrun: Pykrun, real_blob: blob.Blob) -> None:
    done = run_pykrun(["init"])
    assert done.returncode == 0, done.stderr
    told = dict(line.split(": ", 1) for line in done.stdout.decode().splitlines())
    content = Path(told["path"]).read_bytes()
    assert int(told["size"]) == len(content)
    assert told["sha256"] == hashlib.sha256(content).hexdigest() == real_blob.digest
    assert told["architecture"] == "x86_64"
    assert told["recipe"].startswith(real_blob.recipe)
    assert "CPython 3.11" in told["built with"]
    assert told["switches"] == "timesync"


def test_it_copies(run_pykrun: Pykrun, real_blob: blob.Blob, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    done = run_pykrun(["init", "--output", str(target)])
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == real_blob.read()
    assert target.stat().st_mode & 0o777 == 0o755


def test_it_copies_through_a_symbolic_link(run_pykrun: Pykrun, real_blob: blob.Blob, tmp_path: Path) -> None:
    link = tmp_path / "link"
    for target in ("there", "not-yet"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        (tmp_path / "there").write_text("old")
        assert run_pykrun(["init", "--output", str(link)]).returncode == 0
        assert link.is_symlink()
        assert (tmp_path / target).read_bytes() == real_blob.read()


@pytest.mark.root
def test_it_leaves_devices_what_they_are(run_pykrun: Pykrun, real_blob: blob.Blob, tmp_path: Path) -> None:
    null, full = tmp_path / "null", tmp_path / "full"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    done = run_pykrun(["init", "--output", str(null)])
    assert (done.returncode, done.stderr) == (0, b"")
    done = run_pykrun(["init", "--output", str(full)])
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == f"pykrun: cannot write {full}: No space left on device\n".encode()
    assert stat.S_ISCHR(null.stat().st_mode)
    assert stat.S_ISCHR(full.stat().st_mode)


def test_it_copies_into_a_pipe(run_pykrun: Pykrun, real_blob: blob.Blob, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "read", "wb") as read, subprocess.Popen(["cat", tmp_path / "fifo"], stdout=read) as reader:
        assert run_pykrun(["init", "--output", str(tmp_path / "fifo")]).returncode == 0
        assert reader.wait(60) == 0
    assert (tmp_path / "read").read_bytes() == real_blob.read()


def test_on_standard_output_the_copy_is_alone(run_pykrun: Pykrun, real_blob: blob.Blob) -> None:
    done = run_pykrun(["init", "--output", "/dev/stdout"])
    assert done.returncode == 0
    assert done.stdout == real_blob.read()
    assert done.stderr.startswith(b"path: ")


@pytest.mark.parametrize("output", [".", "", "/"])
def test_what_is_no_name_of_a_file(run_pykrun: Pykrun, real_blob: blob.Blob, output: str) -> None:
    done = run_pykrun(["init", "--output", output])
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--output wants the name of a file" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_it_says_why_it_cannot_copy(run_pykrun: Pykrun, real_blob: blob.Blob, tmp_path: Path) -> None:
    done = run_pykrun(["init", "--output", str(tmp_path / "no" / "folder")])
    assert done.returncode != 0
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b"there is no folder" in done.stderr
    assert not (tmp_path / "no").exists()


def test_an_unknown_architecture(run_pykrun: Pykrun) -> None:
    done = run_pykrun(["init", "--arch", "vax"])
    assert done.returncode != 0
    assert b"x86_64" in done.stderr
