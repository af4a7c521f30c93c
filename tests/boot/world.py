"""A mount namespace whose shared folders are empty at first: whatever is in them later, pykrun left there.

Other programs use /tmp, /run and /dev/shm at the same time; in here only the VM under test does.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

SHARED = {"/tmp": "1777", "/var/tmp": "1777", "/run": "755", "/dev/shm": "1777"}
CLONE_NEWNS = 0x20000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


class World:
    """Holds the namespace open with a process of its own. Needs root.

    :param keep: folders that stay what they are, also inside the shared ones.
    """

    def __init__(self, keep: Sequence[Path]) -> None:
        self._keep = sorted(
            {path.resolve() for path in keep if any(path.resolve().is_relative_to(at) for at in SHARED)}
        )
        command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *map(str, self._keep)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self._namespace = os.open(f"/proc/{self._holder.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self, cwd: Path, then: Callable[[], None] | None = None) -> None:
        """For a child between fork and exec."""
        _check(_libc.setns(self._namespace, 0), "setns")
        os.chdir(cwd)
        if then is not None:
            then()

    def content(self) -> set[str]:
        """Every file in the shared folders, and every mount."""
        found = set()
        for shared in SHARED:
            base = f"/proc/{self._holder.pid}/root{shared}"
            for folder, names, files in os.walk(base):
                shown = Path(shared) / os.path.relpath(folder, base)
                names[:] = [name for name in names if shown / name not in self._keep]
                found |= {str(shown / name) for name in [*names, *files]}
        return found | {
            f"mount {line}"
            for line in Path(f"/proc/{self._holder.pid}/mountinfo").read_text(errors="surrogateescape").splitlines()
        }

    def close(self) -> None:
        """Let the namespace go."""
        os.close(self._namespace)
        self._holder.communicate(timeout=10)


def _hold(keep: Sequence[str]) -> None:
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    kept = [(os.open(path, os.O_PATH), path) for path in keep]
    for path, mode in SHARED.items():
        _mount("tmpfs", path, "tmpfs", 0, f"mode={mode}")
    for fd, path in kept:
        os.makedirs(path, exist_ok=True)
        _mount(f"/proc/self/fd/{fd}", path, None, MS_BIND | MS_REC)
        os.close(fd)
    os.write(1, b"ready\n")
    os.read(0, 1)


if __name__ == "__main__":
    _hold(sys.argv[1:])
