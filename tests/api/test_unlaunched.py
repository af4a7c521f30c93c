"""A VM whose image takes for ever to come: its supervisor reads no commands meanwhile, and yet it can be ended."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pykrun
from pykrun import EngineError, Root, aio, blob
from pykrun.api.options import make_request
from pykrun.api.session import Session
from pykrun.errors import ImageError
from pykrun.host.numbers import MACHINE
from pykrun.image.blobs import Archive
from pykrun.image.manifest import read_manifest
from pykrun.image.store import images_folder, unpacked
from tests.api.conftest import LIMIT
from tests.image import make
from tests.support.command import ROOT

pytestmark = pytest.mark.uml


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An image that somebody else, this process, unpacks until the end of the test; who wants it waits.

    In a cache of the test's own: who waited may yet have it before it ends.
    """
    monkeypatch.setenv(blob.OVERRIDE, str(blob.find().path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = make.docker_archive(
        tmp_path / "endless.tar", [make.layer(make.file(tmp_path.name, str(tmp_path).encode()))], {}
    )
    source = Archive(path, images_folder() / "new")
    begun, over = threading.Event(), threading.Event()

    def fill(*_: object) -> None:
        begun.set()
        over.wait(LIMIT)
        raise ImageError("enough")

    def unpack() -> None:
        with pytest.raises(ImageError, match="enough"):
            unpacked(read_manifest(source, "", "", MACHINE), fill)

    thread = threading.Thread(target=unpack)
    thread.start()
    assert begun.wait(LIMIT)
    yield path
    over.set()
    thread.join()
    source.close()


def test_a_timeout(endless: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        pykrun.run(["/bin/true"], image=endless, timeout=1)


def test_kill(endless: Path) -> None:
    session = Session(make_request(["/bin/true"], {"root": Root(image=endless)}))
    threading.Timer(1, session.kill).start()
    assert isinstance(session.ended.exception(LIMIT), EngineError)
    assert isinstance(session.launched.exception(0), EngineError)
    session.kill()  # harmless when repeated


def test_ctrl_c(endless: Path) -> None:
    program = """
import os, signal, sys, threading, pykrun
threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    pykrun.MicroVM(["/bin/true"], image=sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-W", "error", "-c", program, str(endless)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=LIMIT, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"interrupted\n", b"", 0)


def test_a_task_that_is_cancelled(endless: Path) -> None:
    async def main() -> None:
        task = asyncio.create_task(aio.run(["/bin/true"], image=endless))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, LIMIT)

    asyncio.run(main())
