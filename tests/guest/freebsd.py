"""A FreeBSD that is only recorded: it knows its descriptors and who has the console, and fails where it is told to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

SEAM = "krun_init._freebsd"
CALLS = ("kenv", "revoke", "setlogin", "nmount", "unmount", "mounts", "sethostname", "setrlimit", "no_new_privs")


def install_seam() -> None:
    """Let krun_init.freebsd* be imported here; whoever calls the seam itself fails."""

    def refuse(*_arguments: Any) -> None:
        raise AssertionError("the recording does not stand in for this call")

    module = ModuleType(SEAM)
    for name in CALLS:
        setattr(module, name, refuse)
    sys.modules.setdefault(SEAM, module)


install_seam()

from krun_init import freebsd_system, log  # noqa: E402 - needs the seam


class Exited(BaseException):
    """The process is gone."""


class Recording(freebsd_system.Facts):
    """What System offers, and nothing else: every call is noted, and answered from `answers` or with None.

    :param descriptors: what is open, by number: its path.

    `failures` maps a call, or a call and its first argument, to an errno. `signals` are what comes next, `children`
    what waitpid tells; where no signal comes, time passes. `disk_content` is on the configuration disk; None: no disk.
    """

    def __init__(self, folder: Path, descriptors: dict[int, str] | None = None) -> None:
        self.config = str(folder / "root.json")
        self.disk_config = str(folder / "disk.json")
        self.calls: list[tuple[Any, ...]] = []
        self.variables: dict[str, bytes] = {}
        self.failures: dict[Any, int] = {}
        self.answers: dict[str, Any] = {"getpid": 1, "fork": 100, "now": 0.0, "mounts": []}
        self.descriptors = dict(descriptors or {})
        self.inherited: set[int] = set(self.descriptors)
        self.disk_content: bytes | None = None
        self.signals: list[int] = []
        self.children: list[tuple[int, int]] = []

    # -- what is asked of it afterwards ------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The names of the calls so far."""
        return [call[0] for call in self.calls]

    def made(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of that name."""
        return [call[1:] for call in self.calls if call[0] == name]

    @property
    def streams(self) -> list[str | None]:
        """What a program that is executed now has as 0, 1 and 2."""
        return [self.descriptors.get(fd) if fd in self.inherited else None for fd in range(3)]

    # -- the kernel --------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(freebsd_system.System, name):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            for key, number in self.failures.items():
                if key in (name, (name, *arguments[:1])):
                    raise OSError(number, os.strerror(number))
            handler = getattr(self, f"_on_{name}", None)
            return handler(*arguments) if handler is not None else self.answers.get(name)

        return call

    def _on_kenv(self, name: str) -> bytes:
        if name not in self.variables:
            raise FileNotFoundError(2, "No such file or directory")
        return self.variables[name]

    def _on_open(self, path: str, _flags: int, _mode: int = 0) -> int:
        fd = next(number for number in range(100) if number not in self.descriptors)
        self.descriptors[fd] = path
        return fd

    def _on_dup2(self, fd: int, target: int) -> None:
        if fd not in self.descriptors:
            raise OSError(9, "Bad file descriptor")
        self.descriptors[target] = self.descriptors[fd]
        self.inherited.add(target)

    def _on_keep(self, fd: int) -> None:
        self.inherited.add(fd)

    def _on_close(self, fd: int) -> None:
        del self.descriptors[fd]
        self.inherited.discard(fd)

    def _on_nmount(self, options: list[tuple[str, str | None]], _flags: int) -> None:
        if ("from", self.disk) in options:
            if self.disk_content is None:
                raise FileNotFoundError(2, "No such file or directory")
            Path(self.disk_config).write_bytes(self.disk_content)

    def _on_unmount(self, _target: str, _flags: int) -> None:
        Path(self.disk_config).unlink(missing_ok=True)

    def _on_stat(self, _path: str) -> None:
        if self.disk_content is None:
            raise FileNotFoundError(2, "No such file or directory")

    def _on_exit(self, code: int) -> None:
        raise Exited(code)

    def _on_next_signal(self, _signals: Any, seconds: float) -> int:
        if self.signals:
            return self.signals.pop(0)
        assert seconds < 3600, "nothing is to come, and init waits for it"
        self.answers["now"] += seconds
        return 0

    def _on_waitpid(self, _pid: int, _flags: int) -> tuple[int, int]:
        return self.children.pop(0) if self.children else (0, 0)


class Lines(log.Log):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, level: int, text: str) -> None:
        self.lines.append(text)
