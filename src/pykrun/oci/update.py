"""The verb `update`: other limits for a container that is there, as far as its cgroups go."""

from __future__ import annotations

from pykrun.errors import UsageError
from pykrun.oci import cgroup
from pykrun.oci.bundle import Limits, read_limits
from pykrun.oci.fields import Fields
from pykrun.oci.options import VALUE, Given, Table
from pykrun.oci.state import CREATING, STOPPED, Container
from pykrun.plain_json import loads

_NUMBERS = ("memory", "memory-swap", "cpu-period", "cpu-quota", "cpu-share", "pids-limit")
OPTIONS: dict[str, tuple[str, Table]] = {
    "update": (
        "[OPTION...] CONTAINER",
        {
            "resources,r": (VALUE, "file with `linux.resources` in JSON, - for standard input"),
            "memory": (VALUE, "bytes, as in 512m; the guest's memory stays as large as it is"),
            "memory-swap": (VALUE, "bytes of memory and swap together"),
            "cpu-period": (VALUE, "microseconds"),
            "cpu-quota": (VALUE, "microseconds in a period, -1 for no limit"),
            "cpu-share": (VALUE, "weight, 1024 is usual"),
            "cpuset-cpus": (VALUE, "processors, as in 0-3"),
            "pids-limit": (VALUE, "processes, -1 for no limit"),
            **dict.fromkeys(
                ("blkio-weight", "cpuset-mems", "cpu-rt-period", "cpu-rt-runtime", "memory-reservation"),
                (VALUE, "not supported: an error if it is not 0 or empty"),
            ),
            **dict.fromkeys(("kernel-memory", "kernel-memory-tcp", "cpu-burst", "cpu-idle"), (VALUE, "accepted")),
        },
    )
}
_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}
_HINT = "either there is no such cgroup controller here, or the kernel refuses: the VM uses more memory already"


def update(root: str, _settings: Given, options: Given) -> int:
    """Change limits."""
    container = Container(root, options.only())
    kept = container.read()
    if kept["status"] in (STOPPED, CREATING):
        raise UsageError("container not running", f"it is {kept['status']}")
    limits = _limits(options)
    folders = kept.get("pykrun", {}).get("cgroups", [])
    if not folders:
        raise UsageError(
            "cannot update: the container has no cgroup", "and a VM's own size is fixed when it is created"
        )
    missing = cgroup.wanted(limits)
    for folder in folders:
        tree = cgroup.tree_of(folder)
        if tree is not None and folder.endswith(kept["pykrun"]["path"]):
            missing -= cgroup.apply(folder, tree, limits)
    if missing:
        raise UsageError(f"cannot update: the limits of {', '.join(sorted(missing))} could not be written", _HINT)
    return 0


def _limits(options: Given) -> Limits:
    path = options.value("resources")
    if path:
        try:
            with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
                return read_limits(Fields("resources", loads(file.read())))
        except OSError as error:
            raise UsageError(f"--resources {path!r}: {error.strerror}") from None
        except ValueError as error:
            raise UsageError(f"--resources {path!r}: {error}") from None
    for name in ("blkio-weight", "cpuset-mems", "cpu-rt-period", "cpu-rt-runtime", "memory-reservation"):
        if options.value(name, "0") not in ("0", ""):
            raise UsageError(f"--{name} is not supported")
    numbers = {name: _number(name, options.value(name)) for name in _NUMBERS}
    return Limits(
        memory=numbers["memory"],
        swap=numbers["memory-swap"],
        cpu_period=numbers["cpu-period"],
        cpu_quota=numbers["cpu-quota"],
        cpu_shares=numbers["cpu-share"],
        cpus=options.value("cpuset-cpus"),
        pids=numbers["pids-limit"],
    )


def _number(name: str, word: str) -> int | None:
    if not word:
        return None
    digits, shift = word.lower().removesuffix("b"), 0
    if name.startswith("memory") and digits[-1:] in _UNITS:
        digits, shift = digits[:-1], _UNITS[digits[-1]]
    plain = digits.removeprefix("-")
    if not (plain.isascii() and plain.isdigit() and len(plain) < 19):
        raise UsageError(f"--{name} must be a number, not {word!r}")
    return int(digits) << shift
