"""`pykrun init`."""

from __future__ import annotations

import hashlib
from pathlib import Path

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
