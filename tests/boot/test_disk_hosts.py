"""Disks on hosts that allow less: an ordinary user, and a container without namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pykrun import blob
from tests.boot.conftest import NOBODY, become_nobody
from tests.boot.vm import Script, Vm, finish
from tests.disk import make
from tests.disk.make import MIB
from tests.support.command import LAUNCH, Pykrun

pytestmark = [pytest.mark.uml, pytest.mark.root]

CONTAINED = LAUNCH.replace(
    "from pykrun.cli",
    "from pykrun.host import linux; from pykrun.sandbox.filter import assemble; "
    "linux.set_no_new_privileges(); linux.install_filter(assemble()); from pykrun.cli",
)
"""In there no namespaces can be made, as in an ordinary container."""


@pytest.mark.parametrize("format", ["raw", "qcow2"])
@pytest.mark.parametrize("host", ["user", "user in a container", "root in a container"])
def test_disks(tool: Path, run_pykrun: Pykrun, python_for_all: str, host: str, format: str) -> None:
    home = run_pykrun.folder / "nobody"
    home.mkdir()
    disk = home / "disk"
    if format == "raw":
        make.sparse(disk, 4 * MIB)
    else:
        make.tool("qemu-img", "create", "-q", "-f", "qcow2", disk, "4M")
    disk.chmod(0o600)
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        blob.OVERRIDE: str(shutil.copy(blob.find().path, home / "init")),
    }
    uml = Vm("uml", Path(shutil.copy(tool, home / "tool")), run_pykrun)
    script = Script()
    pour = script.call("pour", "/dev/vda", "512", "1024", "0x70")
    read = script.call("pread", "/dev/vda", "510", "4")
    is_user = host.startswith("user")
    if is_user:
        for path in (home, *home.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    options = ["-v", "--disk", str(disk), "--disk-format", format]
    process = subprocess.Popen(
        [
            *(python_for_all, "-I", "-S", "-c", CONTAINED if "container" in host else LAUNCH),
            *uml.options(*options, "--", "/tool", "ops", *script.words),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        preexec_fn=become_nobody if is_user else None,
        start_new_session=True,
    )
    result = finish(process)
    assert result.code == 0, result
    script.fill(result.out)
    assert (pour.value, read.data) == (0, b"\0\0pp")
    (line,) = [line for line in result.err.decode().splitlines() if line.startswith("pykrun: disks, isolation ")]
    assert ("no namespaces" in line) == ("container" in host)
    left = {path.name for path in home.iterdir()}
    assert left <= {"disk", "init", "tool", "cache"}
