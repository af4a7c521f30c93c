"""The writable layer in a machine of namespaces: what init makes of the start data's word."""

from __future__ import annotations

import pytest

from tests.guest.machine import Machine

pytestmark = pytest.mark.root


def test_in_memory(machine: Machine) -> None:
    assert machine.start is not None
    machine.start["layer"] = {}
    machine.text("/kept", "below\n")
    machine.links |= {f"/bin/{name}": "busybox" for name in ("mount", "ls", "rm", "mkdir")}
    machine.shell("echo above >> /kept; cat /kept; rm /bin/yes; mkdir /d; ls /dev/shm; mount | head -n 1; exit 3").run()
    assert machine.exit == (3, 0, ""), machine.logs
    assert machine.output["krun-stdout"].startswith(b"below\nabove\noverlay on / type overlay (rw,relatime,lowerdir=/,")
    assert machine.output["krun-stderr"] == b""


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(3, "layer must be an object"), ({"tag": 5}, "layer.tag must be a string"), ([], "layer must be an object")],
)
def test_what_makes_no_sense(machine: Machine, layer: object, reason: str) -> None:
    assert machine.start is not None
    machine.start["layer"] = layer
    machine.shell("exit 3").run()
    assert machine.exit[0] == 125
    assert reason in machine.exit[2]


def test_a_device_that_does_not_come(machine: Machine) -> None:
    assert machine.start is not None
    machine.start["layer"] = {"tag": "nowhere"}
    machine.shell("exit 3").run()
    assert machine.exit[0] == 125
    assert machine.exit[2].startswith("cannot lay a writable layer over the root: ")
