"""A folder in which scenarios happen, and the trace of what each step said and left behind.

The trace names nothing that may differ between two file systems (inode numbers, exact times, sizes of directories):
where the host's file system and a mount of ours leave the same trace, they behave alike.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Any

from tests.conformance.actors import EVERYBODY, ROOT, STRANGER, Actor, Who

TICK = 0.011
"""Seconds within which a file system's clock moves on."""

Scenario = Callable[["World"], None]
Shown = dict[str, tuple[str, tuple[int, int, int, int]]]
"""By name: what it is; times of access, modification and change; inode number."""

_LETTERS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo"} | {
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
}


class Company:
    """All actors."""

    def __init__(self) -> None:
        self._actors = {who: Actor(who) for who in (*EVERYBODY, STRANGER)}

    def ask(self, who: Who, name: str, *arguments: Any) -> str:
        return self._actors[who].ask(name, *arguments)

    def close(self) -> None:
        for actor in self._actors.values():
            actor.close()


class World:
    """An empty folder, 0777, of root's.

    :param timed: look at times too, which takes a while for each step.
    :param elsewhere: a folder on another file system, for what must not cross.
    """

    def __init__(self, company: Company, top: str, timed: bool, elsewhere: str) -> None:
        self.top = top
        self.elsewhere = elsewhere
        self.trace: list[str] = []
        self._company = company
        self._timed = timed
        os.mkdir(top)
        os.chmod(top, 0o777)
        self._before: Shown = {}

    def path(self, name: str) -> str:
        """Names are relative to the folder; what starts with a slash is not."""
        return name if name.startswith("/") else f"{self.top}/{name}" if name else self.top

    def quietly(self, name: str, *arguments: Any) -> None:
        """Prepare, as root, with no line in the trace; must succeed."""
        answer = self._company.ask(ROOT, name, *self._absolute(name, arguments))
        assert answer == "done" or answer.startswith("open"), (name, arguments, answer)

    def attempt(self, name: str, *arguments: Any) -> str:
        """As `quietly`, and it may fail."""
        return self._company.ask(ROOT, name, *self._absolute(name, arguments))

    def do(self, who: Who, name: str, *arguments: Any) -> str:
        """Make a call; its answer and what it changed go into the trace."""
        if self._timed:
            self._before = self._look()
            time.sleep(TICK)
        answer = self._company.ask(who, name, *self._absolute(name, arguments)).replace(self.top, "")
        shown = [_short(argument).replace(self.top, "").replace(self.elsewhere, "elsewhere") for argument in arguments]
        after = self._look()
        self.trace.append(f"{who} {name} {' '.join(shown)}: {answer} | {self._compared(after)}")
        return answer

    def _absolute(self, name: str, arguments: tuple[Any, ...]) -> list[Any]:
        count = 2 if name in ("link", "link_followed", "rename") else 1
        skip = 1 if name == "symlink" else 0
        return [
            self.path(argument) if skip <= index < skip + count else argument
            for index, argument in enumerate(arguments)
        ]

    def _compared(self, after: Shown) -> str:
        lines = []
        for name, (text, times) in after.items():
            old = self._before.get(name)
            if self._timed:
                moved = "new" if old is None or old[1][3] != times[3] else _moved(old[1], times)
                text = f"{text} {moved}"
            lines.append(f"{name or '.'} {text}")
        return "; ".join(lines)

    def _look(self) -> Shown:
        """Everything in the folder."""
        found: dict[str, os.stat_result] = {}
        self._walk("", found, 0)
        shown: Shown = {}
        first: dict[int, str] = {}
        for name, status in found.items():
            kind = stat.S_IFMT(status.st_mode)
            text = f"{_LETTERS[kind]} {stat.S_IMODE(status.st_mode):o} {status.st_uid}:{status.st_gid}"
            text += f" x{status.st_nlink}"
            if kind == stat.S_IFREG:
                text += f" {status.st_size} B"
            elif kind == stat.S_IFLNK:
                text += " -> " + os.readlink(self.path(name)).replace(self.top, "")
            elif kind in (stat.S_IFBLK, stat.S_IFCHR):
                text += f" {os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
            if status.st_nlink > 1 and kind != stat.S_IFDIR:
                text += " is " + first.setdefault(status.st_ino, _short(name))
            shown[_short(name)] = (
                text,
                (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns, status.st_ino),
            )
        return shown

    def _walk(self, name: str, found: dict[str, os.stat_result], depth: int) -> None:
        status = os.lstat(self.path(name))
        found[name] = status
        if not stat.S_ISDIR(status.st_mode) or depth > 4:
            return
        # Looking must not count as reading.
        listed = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
        try:
            entries = sorted(os.listdir(listed))
        finally:
            os.close(listed)
        for entry in entries:
            self._walk(f"{name}/{entry}" if name else entry, found, depth + 1)


def _short(argument: Any) -> str:
    text = str(argument)
    return text if len(text) < 200 else f"{text[:8]}..({len(text)})"


def _moved(old: tuple[int, int, int, int], new: tuple[int, int, int, int]) -> str:
    """Which times are others than before, and those that were set to something far away."""
    names = [name for name, one, other in zip(("mtime", "ctime"), old[1:3], new[1:3], strict=True) if one != other]
    for name, value in zip(("atime", "mtime"), new[:2], strict=True):
        if abs(value - time.time_ns()) > 600_000_000_000:
            names.append(f"{name}={value}")
    return "+".join(names) or "same"
