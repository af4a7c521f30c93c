"""What a container uses of this host: time, memory, processes. Of its cgroup, or of the processes that run its VM."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNLIMITED = (1 << 63) - 1


def of_cgroups(folders: list[str]) -> dict[str, Any]:
    """Read the cgroups' own counts; what no group has is 0.

    :raise FileNotFoundError: the groups are gone.
    """
    memory = _first(folders, "memory.usage_in_bytes", "memory.current")
    limit = _first(folders, "memory.limit_in_bytes", "memory.max")
    nanoseconds = _first(folders, "cpuacct.usage") or 1000 * _field(folders, "cpu.stat", "usage_usec")
    pids = _first(folders, "pids.current")
    most = _first(folders, "pids.max")
    if not any(map(os.path.isdir, folders)):
        raise FileNotFoundError(2, os.strerror(2), folders[0])
    anonymous = _field(folders, "memory.stat", "anon") or _field(folders, "memory.stat", "rss")
    return _shape(nanoseconds, memory, limit, anonymous, pids, most)


def of_processes(pid: int) -> dict[str, Any]:
    """Add up a supervisor and all that it has started.

    :raise FileNotFoundError: it has ended.
    """
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    spent = resident = threads = 0
    for one in _family(pid):
        words = _stat(one)
        if words is None:
            if one == pid:
                raise FileNotFoundError(2, os.strerror(2), f"/proc/{pid}")
            continue
        spent += int(words[11]) + int(words[12])
        threads += int(words[17])
        resident += int(words[21]) * page
    return _shape(spent * 1_000_000_000 // ticks, resident, 0, resident, threads, 0)


def _shape(nanoseconds: int, memory: int, limit: int, anonymous: int, pids: int, most: int) -> dict[str, Any]:
    return {
        "cpu": {"usage": {"total": nanoseconds, "kernel": 0, "user": nanoseconds}, "throttling": {}},
        "memory": {
            "usage": {"usage": memory, "limit": 0 if limit >= _UNLIMITED >> 12 else limit},
            "swap": {},
            "kernel": {},
            "kernelTCP": {},
            "raw": {"anon": anonymous, "rss": anonymous, "total_inactive_file": 0, "inactive_file": 0},
        },
        "pids": {"current": pids, "limit": most},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _first(folders: list[str], *names: str) -> int:
    """The number in the first of these files that there is."""
    for folder in folders:
        for name in names:
            try:
                with open(f"{folder}/{name}") as file:
                    word = file.read().strip()
            except OSError:
                continue
            return int(word) if word.isdigit() else 0
    return 0


def _field(folders: list[str], name: str, key: str) -> int:
    for folder in folders:
        try:
            with open(f"{folder}/{name}") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            word, _, value = line.partition(" ")
            if word == key:
                return int(value)
    return 0


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (words := _stat(int(name))) is not None:
            parents.setdefault(int(words[1]), []).append(int(name))
    found = [pid]
    for one in found:
        found += parents.get(one, ())
    return found


def _stat(pid: int) -> list[str] | None:
    """What /proc/PID/stat says from the state on; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
