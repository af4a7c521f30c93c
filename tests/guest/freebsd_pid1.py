"""Runs as PID 1 of new namespaces and is FreeBSD's init there; Linux answers the calls that FreeBSD alone has.

`freebsd_pid1.py FILE`: the file holds a JSON object with `source`, `library` (of the seam to Linux), `folder` (for what
the init writes), `console`, `variables` (the kernel's), `disk` (a folder, null for none), `argv`, `grace`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import posix
import resource
import sys
from pathlib import Path
from typing import Any

TIOCSCTTY = 0x540E
MS_RDONLY, MS_BIND, MS_PRIVATE, MS_REC = 1, 1 << 12, 1 << 18, 1 << 14
PR_SET_NO_NEW_PRIVS = 38


def make_system(spec: dict[str, Any]) -> Any:
    from krun_init import _linux, freebsd_system

    folder = Path(spec["folder"])

    class LinuxBelow(freebsd_system.System):
        console = spec["console"]
        log = str(folder / "init.log")
        disk_folder = str(folder / "mnt")
        disk_config = str(folder / "mnt" / "krun_config.json")
        config = str(folder / "root.json")

        def kenv(self, name: str) -> bytes:
            if name not in spec["variables"]:
                raise FileNotFoundError
            value: str = spec["variables"][name]
            return value.encode()

        def revoke(self, path: str) -> None:
            """Linux has none; `ioctl` takes the terminal from another session."""

        def ioctl(self, fd: int, code: int, _argument: int) -> None:
            fcntl.ioctl(fd, TIOCSCTTY if code == self.TIOCSCTTY else code, 1)

        def setlogin(self, name: str) -> None:
            (folder / "login").write_text(name)

        def nmount(self, options: list[tuple[str, str]], _flags: int) -> None:
            if spec["disk"] is None:
                raise FileNotFoundError
            _linux.mount(spec["disk"], dict(options)["fspath"], None, MS_BIND)

        def unmount(self, target: str, flags: int) -> None:
            _linux.umount(target, flags)
            (folder / "unmounted").touch()

        def mounts(self) -> list[tuple[str, str, str, int]]:
            return []

        def socket_ioctl(self, code: int, request: bytes) -> None:
            pass

        def sethostname(self, name: str) -> None:
            _linux.sethostname(name)

        def setrlimit(self, number: int, soft: int, hard: int) -> None:
            resource.setrlimit(number, (soft, hard))

        def no_new_privs(self) -> None:
            ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    _linux.mount(None, "/", None, MS_PRIVATE | MS_REC)
    return LinuxBelow()


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    sys.path[:0] = [spec["source"], spec["tests"]]
    from tests.guest import freebsd as recording
    from tests.guest import seam

    seam.load(Path(spec["library"]))
    recording.install_seam()
    from krun_init import freebsd

    freebsd.DEFAULT_GRACE_MS = int(spec["grace"] * 1000)  # type: ignore[misc]  # a constant there
    system = make_system(spec)
    for fd in range(3):
        posix.close(fd)  # the kernel of FreeBSD opens none
    sys.argv = ["/init.krun", *spec["argv"]]
    posix.environ.clear()
    freebsd.main(system)


main()
