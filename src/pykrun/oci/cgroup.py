"""The cgroups of a container: made, joined, limited, removed; without systemd, where they can be written at all.

A host has the v2 tree, the v1 trees, or both (hybrid). Where one cannot be written the container goes on without it: a
VM is bounded by its own memory and processors.

The limits are those of the processes that run the VM, which need something for themselves: `OVERHEAD` of memory beyond
the guest's, and `HELPERS` processes beyond the container's.
"""

from __future__ import annotations

import os
import time
from errno import EBUSY, EINVAL, ENOENT

from pykrun.errors import UsageError
from pykrun.oci.bundle import Limits

OVERHEAD = 192 << 20
"""Bytes: supervisor, file server, network, and the engine's own."""
HELPERS = 64
"""More processes and threads than an engine and its servers are."""
_PATIENCE = 2.0
"""Seconds that the kernel has for letting go of a group whose processes have ended."""
_V2 = "v2"
_OPTIONAL = ("memory.memsw.limit_in_bytes", "memory.swap.max")
"""Files that a kernel without accounting of swap does not have."""
_WANTED = ("memory", "cpu", "cpuset", "pids")


class Tree:
    """A mounted hierarchy: where, and the controllers that its v1 kind has (`v2` for the unified one)."""

    def __init__(self, folder: str, controllers: tuple[str, ...]) -> None:
        self.folder = folder
        self.controllers = controllers


def path_of(path: str, *, systemd: bool) -> str:
    """Where a cgroupsPath leads below the mount points; empty for nowhere.

    :param systemd: it is `slice:prefix:name`; the same folders as systemd's are used.
    :raise UsageError: it has another form, or leads out.
    """
    if not path:
        return ""
    if systemd:
        words = path.split(":")
        if len(words) != 3 or not words[2]:
            raise UsageError(f"config.json: linux.cgroupsPath must be slice:prefix:name, not {path!r}")
        parent, prefix, name = words
        unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        path = f"{_slices(parent or 'system.slice')}/{unit}"
    if ".." in path.split("/"):
        raise UsageError(f"config.json: linux.cgroupsPath must not lead out with .., as {path!r} does")
    return os.path.normpath(path).strip("/")


def _slices(name: str) -> str:
    """`a-b.slice` lies in `a.slice`."""
    if name == "-.slice":
        return ""
    if not name.endswith(".slice") or "/" in name:
        raise UsageError(f"config.json: linux.cgroupsPath: {name!r} is no slice")
    words = name.removesuffix(".slice").split("-")
    return "/".join("-".join(words[: count + 1]) + ".slice" for count in range(len(words)))


def trees() -> list[Tree]:
    """The hierarchies that are mounted here and that this process is in."""
    found: dict[str, Tree] = {}
    with open("/proc/self/mountinfo", "rb") as file:
        lines = os.fsdecode(file.read()).splitlines()
    for line in lines:
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        folder = before.split(" ")[4]
        if kind == "cgroup2":
            found.setdefault(_V2, Tree(folder, (_V2,)))
        elif kind == "cgroup":
            controllers = tuple(word for word in options.split(",") if word not in ("rw", "ro"))
            found.setdefault(options, Tree(folder, controllers))
    return list(found.values())


def enter(path: str, limits: Limits) -> list[str]:
    """Make and join the groups, with their limits; return the folders that are the container's, deepest first.

    :param path: as `path_of` has it.
    """
    made: list[str] = []
    if not path:
        return made
    for tree in trees():
        folder = f"{tree.folder}/{path}"
        try:
            new = _make(tree, path)
        except OSError:
            continue
        made += new
        apply(folder, tree, limits)
        try:
            _write(f"{folder}/cgroup.procs", str(os.getpid()))
        except OSError:
            remove(new)
            made = made[: len(made) - len(new)]
            continue
        if folder not in new:  # somebody else's, as a pod's may be: used, and left
            made.append(folder)
    return made


def _make(tree: Tree, path: str) -> list[str]:
    """Make a group and those above it; return the new ones, deepest first."""
    new: list[str] = []
    folder = tree.folder
    for part in path.split("/"):
        if _V2 in tree.controllers:
            _enable(folder)
        parent, folder = folder, f"{folder}/{part}"
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            continue
        new.insert(0, folder)
        if "cpuset" in tree.controllers:  # a new one has none, and lets no process in
            for name in ("cpuset.cpus", "cpuset.mems"):
                with open(f"{parent}/{name}") as file:
                    _write(f"{folder}/{name}", file.read())
    return new


def _enable(folder: str) -> None:
    """Have the controllers in the groups below, as far as they are to be had."""
    for name in _WANTED:
        try:
            _write(f"{folder}/cgroup.subtree_control", f"+{name}")
        except OSError:
            pass


def wanted(limits: Limits) -> set[str]:
    """The controllers that the limits need."""
    return {name.split(".")[0] for name in _v1(limits)}


def apply(folder: str, tree: Tree, limits: Limits) -> set[str]:
    """Write the limits that belong into that group; return the controllers that took theirs."""
    taken: set[str] = set()
    refused: set[str] = set()
    unified = _V2 in tree.controllers
    files = _v2(limits, folder) if unified else _v1(limits)
    pending = [(name, value) for name, value in files.items() if unified or name.split(".")[0] in tree.controllers]
    # Twice: memory must not be more than memory and swap, so which has to be first depends on what they were.
    for is_last in (False, True):
        again: list[tuple[str, str]] = []
        for name, value in pending:
            controller = name.split(".")[0]
            try:
                _write(f"{folder}/{name}", value)
                taken.add(controller)
            except OSError as error:
                if error.errno == EINVAL and not is_last:
                    again.append((name, value))
                elif name not in _OPTIONAL:
                    refused.add(controller)
        pending = again
    return taken - refused


def _memory(limit: int | None) -> int | None:
    return None if limit is None or limit == 0 else -1 if limit < 0 else limit + OVERHEAD


def _v1(limits: Limits) -> dict[str, str]:
    files: dict[str, str] = {}
    for name, limit in (("limit", limits.memory), ("memsw.limit", limits.swap)):
        memory = _memory(limit)
        if memory is not None:
            files[f"memory.{name}_in_bytes"] = str(memory)
    if limits.cpu_period:
        files["cpu.cfs_period_us"] = str(limits.cpu_period)
    if limits.cpu_quota:
        files["cpu.cfs_quota_us"] = str(max(limits.cpu_quota, -1))
    if limits.cpu_shares:
        files["cpu.shares"] = str(limits.cpu_shares)
    if limits.cpus:
        files["cpuset.cpus"] = limits.cpus
    if limits.pids:
        files["pids.max"] = str(limits.pids + HELPERS) if limits.pids > 0 else "max"
    return files


def _v2(limits: Limits, folder: str) -> dict[str, str]:
    files: dict[str, str] = {}
    memory = _memory(limits.memory)
    if memory is not None:
        files["memory.max"] = "max" if memory < 0 else str(memory)
    if limits.swap and limits.memory and limits.memory > 0:
        files["memory.swap.max"] = "max" if limits.swap < 0 else str(max(limits.swap - limits.memory, 0))
    if limits.cpu_quota or limits.cpu_period:
        quota = str(limits.cpu_quota) if (limits.cpu_quota or 0) > 0 else "max" if limits.cpu_quota else _quota(folder)
        # A quota alone leaves the period what it is.
        files["cpu.max"] = f"{quota} {limits.cpu_period}" if limits.cpu_period else quota
    if limits.cpu_shares:  # 2 to 262144 there, 1 to 10000 here
        files["cpu.weight"] = str(1 + (min(max(limits.cpu_shares, 2), 262_144) - 2) * 9999 // 262_142)
    if limits.cpus:
        files["cpuset.cpus"] = limits.cpus
    if limits.pids:
        files["pids.max"] = str(limits.pids + HELPERS) if limits.pids > 0 else "max"
    return files


def _quota(folder: str) -> str:
    """The quota that a group has, as `cpu.max` has it."""
    try:
        with open(f"{folder}/cpu.max") as file:
            return file.read().split()[0]
    except (OSError, IndexError):
        return "max"


def tree_of(folder: str) -> Tree | None:
    """The hierarchy that a group's folder lies in."""
    return next((tree for tree in trees() if folder.startswith(tree.folder + "/")), None)


def remove(folders: list[str]) -> None:
    """Remove groups, deepest first; what others still use stays."""
    deadline = time.monotonic() + _PATIENCE
    for folder in folders:
        while True:
            try:
                os.rmdir(folder)
            except OSError as error:
                if error.errno == EBUSY and time.monotonic() < deadline and _is_dying(folder):
                    time.sleep(0.005)
                    continue
                if error.errno not in (EBUSY, ENOENT):
                    break
            break


def _is_dying(folder: str) -> bool:
    """Whether nobody is in a group, or only processes that have ended."""
    try:
        return not any(entry.is_dir() for entry in os.scandir(folder))
    except OSError:
        return False


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
