"""The devices under real kernels: a guest whose root, console and ports are ours, on both engines."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Sequence

import pytest

from pykrun.kernel.find import for_qemu
from pykrun.loop import IN, Loop
from pykrun.vhost_user import QEMU_FEATURES, UML_FEATURES, Backend, OneConnection
from pykrun.virtio import RING_FEATURES, Device, FsDevice
from pykrun.virtio.console import ConsoleDevice, ConsolePort
from pykrun.virtio.device import F_EVENT_IDX
from tests.virtio import guests
from tests.virtio.tiny_fuse import TinyFuse, Tree

TAG = "/dev/root"
ENTER_ROOT = f"mount -t virtiofs {TAG} /mnt && exec switch_root /mnt /init"
UML_TIMEOUT = 60.0
QEMU_TIMEOUT = 180.0


class Bucket:
    """A sink that takes at most `step` bytes at a time, and then wants a pause."""

    def __init__(self, loop: Loop, step: int) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.content = bytearray()
        self._loop = loop
        self._step = step
        self._full = False

    def write(self, buffers: Sequence[memoryview]) -> int:
        if self._full:
            return 0
        part = b"".join(buffers)[: self._step]
        self.content += part
        self._full = True
        self._loop.call_later(0, self._empty)
        return len(part)

    def _empty(self) -> None:
        self._full = False
        assert self.on_ready is not None
        self.on_ready()


class Well:
    """A source that gives at most `step` bytes at a time, and then nothing for a moment."""

    def __init__(self, loop: Loop, content: bytes, step: int) -> None:
        self.on_ready: Callable[[], None] | None = None
        self._content = content
        self._loop = loop
        self._step = step
        self._dry = False

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        if self._dry or not self._content:
            return 0
        count = 0
        for view in buffers:
            part = self._content[count : min(count + len(view), self._step)]
            view[: len(part)] = part
            count += len(part)
        self._content = self._content[count:]
        self._dry = True
        self._loop.call_later(0, self._refill)
        return count

    def _refill(self) -> None:
        self._dry = False
        assert self.on_ready is not None
        self.on_ready()


class Host:
    """Our side of one boot: a loop, back ends, and what the guest said."""

    def __init__(self, timeout: float) -> None:
        self.loop = Loop()
        self.output = bytearray()
        self.ends: list[Exception | None] = []
        self.broken: list[object] = []
        self.backends: list[Backend] = []
        self._waiting: list[OneConnection] = []
        self._later: list[Callable[[], None]] = []
        self._limit = self.loop.call_later(timeout, self.loop.stop)

    def serve(self, device: Device, protocol_features: int, ring_features: int = RING_FEATURES) -> socket.socket:
        """Return the listening socket of a device, to be bound."""
        listener = socket.socket(socket.AF_UNIX)

        def connected(connection: socket.socket) -> None:
            backend = Backend(
                self.loop,
                device,
                connection,
                protocol_features=protocol_features,
                ring_features=ring_features,
                on_close=self.ends.append,
                on_broken=lambda index, error: self.broken.append((index, error)),
            )
            self.backends.append(backend)

        self._later.append(lambda: self._waiting.append(OneConnection(self.loop, listener, connected)))
        return listener

    def run(self, process: subprocess.Popen[bytes]) -> str:
        """Serve until the guest's console has ended; return what it printed."""
        for wait in self._later:
            wait()
        assert process.stdout is not None
        fd = process.stdout.fileno()

        def readable(_events: int) -> None:
            content = os.read(fd, 65536)
            self.output += content
            if not content:
                self.loop.remove(fd)
                self.loop.call_later(0.1, self.loop.stop)  # the connections end too

        self.loop.add(fd, IN, readable)
        self.loop.run()
        text = self.output.decode(errors="replace")
        print(text)  # pytest shows it when the test fails
        return text

    def close(self) -> None:
        self._limit.cancel()
        for backend in self.backends:
            backend.close()
        for waiting in self._waiting:
            waiting.close()
        self.backends.clear()
        self.loop.close()


FILE = os.urandom(1 << 16) * 64
MANY: Tree = {f"file{number}": b"%d\n" % number for number in range(300)}
INIT = b"""#!/bin/busybox sh
B=/bin/busybox
$B echo root is $($B cat /hello)
$B md5sum /big
$B echo files: $($B ls /many | $B wc -l)
sum=0
for file in /many/*; do read number < $file; sum=$((sum + number)); done
$B echo sum: $sum
"""


def tree(init: bytes) -> Tree:
    return {
        "init": INIT + init + b"$B poweroff -f\n",
        "hello": b"ours\n",
        "big": FILE,
        "many": MANY,
        "bin": {"busybox": guests.busybox()},
        **{name: {} for name in ("dev", "proc", "sys")},
    }


def check_files(said: str) -> None:
    assert "root is ours" in said
    assert f"{hashlib.md5(FILE).hexdigest()}  /big" in said
    assert "files: 300" in said
    assert f"sum: {sum(range(300))}" in said


@pytest.mark.uml
@pytest.mark.parametrize("ring_features", [RING_FEATURES, RING_FEATURES & ~F_EVENT_IDX], ids=["event_idx", "plain"])
def test_uml_root_console_and_ports(ring_features: int) -> None:
    host = Host(UML_TIMEOUT)
    content = os.urandom(3 << 20)
    echoed, shown = Bucket(host.loop, 100_000), Bucket(host.loop, 7)
    ports = [
        ConsolePort("first", None, Well(host.loop, content, 50_000)),
        ConsolePort("second", echoed, None),
    ]
    console = ConsoleDevice([ConsolePort("", shown, console=True), *ports])
    init = b"""
$B mount -t devtmpfs dev /dev; $B mount -t sysfs sys /sys
for port in /sys/class/virtio-ports/*; do
  name=; [ -e $port/name ] && read name < $port/name
  case $name in first) first=/dev/${port##*/};; second) second=/dev/${port##*/};; esac
done
$B echo on the console > /dev/hvc0
$B head -c 3145728 < $first > $second
"""
    fuse = TinyFuse(tree(init))
    listeners = {
        "fs": host.serve(FsDevice(TAG.encode(), fuse.handle), UML_FEATURES, ring_features),
        "console": host.serve(console, UML_FEATURES, ring_features),
    }
    with guests.uml(ENTER_ROOT, {"fs": 26, "console": 3}, listeners) as process:
        said = host.run(process)
    host.close()
    check_files(said)
    assert bytes(shown.content) == b"on the console\r\n"
    assert len(echoed.content) == len(content)
    assert bytes(echoed.content) == content
    assert (host.ends, host.broken, fuse.inits) == ([None, None], [], 1)


@pytest.mark.qemu
@pytest.mark.parametrize("ring_features", [RING_FEATURES, RING_FEATURES & ~F_EVENT_IDX], ids=["event_idx", "plain"])
def test_qemu_root(ring_features: int) -> None:
    kernel = for_qemu()
    if kernel is None or kernel.modules is None:
        pytest.skip("no kernel for QEMU (python -m pykrun.kernel)")
    host = Host(QEMU_TIMEOUT)
    fuse = TinyFuse(tree(b""))
    listener = host.serve(FsDevice(TAG.encode(), fuse.handle), QEMU_FEATURES, ring_features)
    with guests.qemu(ENTER_ROOT, kernel.image, kernel.modules, TAG, listener) as process:
        said = host.run(process)
    host.close()
    check_files(said)
    assert (host.ends, host.broken, fuse.inits) == ([None], [], 1)
