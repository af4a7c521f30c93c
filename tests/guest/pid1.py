"""Runs as PID 1 of new namespaces: makes a root of its own in memory, then is krun_init.

`pid1.py FILE`: the file holds a JSON object with `library`, `source`, `root`, `files`, `links`, `ports`, `argv`,
`environ`, `patience`, `terminal`, `readonly`, `started_by_kernel` (false: init is to find out by itself), `busy` (ports
that cannot be opened). Ports are inherited socket pairs: like a virtio port, each can be had once and goes both ways.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import posix
import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

MNT_DETACH, MS_PRIVATE, MS_REC = 2, 1 << 18, 1 << 14
MS_RDONLY, MS_REMOUNT = 1, 32


def load(library: str, source: str) -> Any:
    sys.path.insert(0, source)
    spec = spec_from_file_location("krun_init._linux", library)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["krun_init._linux"] = module
    return module


def make_root(linux: Any, spec: dict[str, Any]) -> None:
    root = spec["root"]
    linux.mount(None, "/", None, MS_PRIVATE | MS_REC)
    linux.mount("tmpfs", root, "tmpfs", 0, "mode=755")
    for path, (content, mode) in spec["files"].items():
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as stream:
            stream.write(base64.b64decode(content))
        os.chmod(target, mode)
    for path, target in spec["links"].items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(target, root + path)
    for index, name in enumerate(spec["ports"]):
        folder = f"{root}/ports/vport0p{index}"
        os.makedirs(folder + "/device")
        with open(folder + "/name", "w") as stream:
            stream.write(name + "\n")
        with open(folder + "/device/features", "w") as stream:
            stream.write("1" * 64 + "\n")
    for folder in ("/devices", "/proc", "/sys", "/dev") if spec["readonly"] else ("/devices",):
        os.makedirs(root + folder, exist_ok=True)
    os.chdir(root)
    linux.mount(root, "/", None, 0x2000)  # MS_MOVE
    os.chroot(".")
    os.chdir("/")
    if spec["readonly"]:
        linux.mount("tmpfs", "/devices", "tmpfs")
        linux.mount(None, "/", None, MS_REMOUNT | MS_RDONLY)


def main() -> None:
    with open(sys.argv[1]) as stream:
        spec = json.load(stream)
    linux = load(spec["library"], spec["source"])
    from krun_init.main import main as init
    from krun_init.places import Places

    make_root(linux, spec)
    # As the real one, it is there in every root; in a machine without ports it is not there at all.
    sysfs = os.open("/ports", os.O_RDONLY | os.O_DIRECTORY) if spec["ports"] else -1

    class TestPlaces(Places):
        """The clock is the machine's, which this is not: it only counts for init, and who sets it is heard of."""

        offset = 0

        def clock(self) -> int:
            return super().clock() + self.offset

        def set_clock(self, now: int) -> None:
            self.offset = now - super().clock()
            os.write(2, b"clock set\n")

        ports = f"/proc/self/fd/{sysfs}"
        devices = "/devices"
        terminal = spec["terminal"]
        patience = spec["patience"]

        def started_by_kernel(self) -> bool:
            return spec["started_by_kernel"] or super().started_by_kernel()

        def open_port(self, device: str, flags: int) -> int:
            name, fd = list(spec["ports"].items())[int(device.removeprefix("vport0p"))]
            if name in spec["busy"]:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            os.set_blocking(fd, not flags & posix.O_NONBLOCK)
            return int(fd)

    os.umask(0o022)
    sys.argv = spec["argv"]
    posix.environ.clear()
    posix.environ.update({key.encode(): value.encode() for key, value in spec["environ"].items()})
    before = os.listdir("/")
    code = init(TestPlaces())
    print("added", sorted(set(os.listdir("/")) - set(before)))
    sys.exit(code)


main()
