"""QEMU's own disks, as QEMU counts what the guest does with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pykrun.disk import open_image
from pykrun.engine import Running
from pykrun.kernel.modules import ModuleTree
from pykrun.record import replace
from tests.disk import make
from tests.engine import guest

pytestmark = pytest.mark.qemu

FLUSHES = 50
SCRIPT = f"""
for module in /*.ko; do insmod $module; done
mount -t devtmpfs dev /dev
i=0; while [ -b /dev/vda ] && [ $i -lt {FLUSHES} ]; do
  dd if=/dev/zero of=/dev/vda bs=512 count=1 seek=$i conv=fsync,notrunc 2>/dev/null; i=$((i+1))
done
say flushed
sleep 1000
"""


def ask(running: Running, command: str) -> Any:
    """One question to QEMU's monitor."""
    assert running.control is not None
    running.control.setblocking(True)
    running.control.settimeout(20)
    running.control.sendall(b'{"execute":"qmp_capabilities"}' + json.dumps({"execute": command}).encode())
    answers: list[Any] = []
    with running.control.makefile("r") as lines:
        while len(answers) < 2:
            line = json.loads(lines.readline())
            if "return" in line:
                answers.append(line["return"])
    return answers[1]


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_flushes_arrive(tmp_path: Path, format: str) -> None:
    engine = guest.choose("qemu")
    kernel = engine.kernel()
    assert kernel.modules is not None
    order = ModuleTree(kernel.modules).load_order(("virtio_pci", "virtio_blk"))
    files = {f"{index:02}-{name}.ko": data for index, (name, data) in enumerate(order)}
    image = tmp_path / "image"
    make.tool("qemu-img", "create", "-q", "-f", format, image, "16M")
    disk = open_image(str(image), format=format)
    machine = guest.machine(engine, tmp_path, SCRIPT, files)
    running = engine.launch(replace(machine, disks=(disk,)))
    try:
        guest.Watch(running).seen(b"flushed")
        (found,) = [entry for entry in ask(running, "query-blockstats") if entry.get("qdev")]
        assert found["stats"]["flush_operations"] == FLUSHES
        assert found["stats"]["wr_operations"] >= FLUSHES
    finally:
        running.close()
        os.close(disk.descriptor)
