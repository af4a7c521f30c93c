"""Progress is for people: on a terminal, and gone at the end."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.image import make
from tests.image.make import file, layer
from tests.support.command import ROOT

SCRIPT = """
import sys
from pykrun.image import open_image, progress
progress._FIRST = progress._EVERY = 0
open_image(sys.argv[1], arch="x86_64")
"""


def test_on_a_terminal_only(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ours, theirs = pty.openpty()
    for number, errors in enumerate((theirs, subprocess.PIPE)):
        path = make.image(tmp_path / f"image{number}", layer(file("f", bytes(3 << 20)), file(str(number))))
        command = [sys.executable, "-c", SCRIPT, str(path)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=errors, timeout=60, check=True)
        assert done.stdout == b""
        assert not done.stderr
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert shown.startswith(b"\r\x1b[Kpykrun: unpacking the image: ")
    assert b": 3 MiB" in shown
    assert shown.endswith(b"\r\x1b[K")
