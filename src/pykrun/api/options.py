"""The options of a VM and its command, under the same names in Python, in `vm.toml` and on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import IO, Any, TypedDict

from pykrun.api.root import Root, StrPath
from pykrun.errors import UsageError
from pykrun.request import Request
from pykrun.start_data import StartData, User

Stream = int | IO[Any] | None
"""A standard stream as in subprocess: None (ours), PIPE, DEVNULL, STDOUT, a descriptor or an open file."""


class Options(TypedDict, total=False):
    """What may be said about a VM and its command; all of it may be left out.

    The root: `root`, a `Root` or a directory; `read_only` for a directory.
    The command: `env`, `workdir`, `user` (uid, or uid and gid), `hostname`, `rlimits` ({"nofile": (soft, hard)}),
    `tty`, `grace` (seconds between TERM and KILL when the VM is stopped).
    The machine: `engine` (auto, uml, qemu), `accel` (auto, kvm, tcg), `kernel`, `modules`, `kernel_args`, `cpus`,
    `memory` (MiB), `net` (none, user), `publish` (["8080:80"]), `root_disk` (/dev/vda1), `root_fstype`,
    `root_options`, `sandbox` (auto, require), `boot_log` (a file).
    """

    root: Root | StrPath | None
    read_only: bool
    env: Mapping[str, str]
    workdir: str
    user: int | tuple[int, int]
    hostname: str
    rlimits: Mapping[str, tuple[int, int]]
    tty: bool
    grace: float
    engine: str
    accel: str
    kernel: StrPath
    modules: StrPath
    kernel_args: Sequence[str]
    cpus: int
    memory: int
    net: str
    publish: Sequence[str]
    root_disk: str
    root_fstype: str
    root_options: str
    sandbox: str
    boot_log: StrPath


NAMES = frozenset(Options.__annotations__)


def root_of(options: Options) -> Root:
    """The root that the options mean.

    :raise UsageError: `read_only` for what is no directory.
    """
    given = options.get("root")
    if isinstance(given, Root):
        if "read_only" in options:
            raise UsageError("read_only is for a root that is a directory", "say Root(path, read_only=True)")
        return given
    return Root(given, read_only=options.get("read_only", False))


def make_request(command: Sequence[str | bytes], options: Options) -> Request:
    """Check the options and put the request together; streams and opened files are added later.

    :raise UsageError: something cannot be.
    """
    for name in options.keys() - NAMES:
        raise UsageError(f"there is no option {name!r}", f"options: {', '.join(sorted(NAMES))}")
    if isinstance(command, str | bytes) or not command or not command[0]:
        raise UsageError(f"a command is a list of words, not {command!r}", 'for a shell line: ["/bin/sh", "-c", "..."]')
    root = root_of(options)
    net = options.get("net", "none")
    if net not in ("none", "user"):
        raise UsageError(f"net is none or user, not {net!r}")
    publish = _publish(options.get("publish", ()))
    cpus = options.get("cpus")
    return Request(
        start=_start(command, options),
        root=root.tree(),
        volumes=root.volumes,
        disks=root.disks,
        engine=_one_of("engine", options.get("engine", "auto"), ("auto", "uml", "qemu")),
        accel=_one_of("accel", options.get("accel", "auto"), ("auto", "kvm", "tcg")),
        kernel=_path(options.get("kernel")),
        modules=_path(options.get("modules")),
        kernel_args=tuple(options.get("kernel_args", ())),
        cpus=None if cpus is None else _whole("cpus", cpus, 255),
        memory_mib=_whole("memory", options.get("memory", 256), 1 << 20),
        network=net == "user" or bool(publish),
        publish=publish,
        sandbox=_one_of("sandbox", options.get("sandbox", "auto"), ("auto", "require")),
        boot_log=_path(options.get("boot_log")),
    )


def _start(command: Sequence[str | bytes], options: Options) -> StartData:
    user = options.get("user")
    ids = (user, user) if isinstance(user, int) else user
    if ids is not None and not all(isinstance(number, int) and 0 <= number < (1 << 32) - 1 for number in ids):
        raise UsageError(f"user is a number or two (uid, gid), not {user!r}", "names live in the guest")
    return StartData(
        program=command[0],
        arguments=list(command[1:]),
        environment=dict(options.get("env", {})),
        workdir=options.get("workdir"),
        hostname=options.get("hostname"),
        user=None if ids is None else User(uid=ids[0], gid=ids[1]),
        rlimits=[_rlimit(name, *limits) for name, limits in options.get("rlimits", {}).items()],
        terminal=options.get("tty", False),
        grace=options.get("grace"),
        root_device=options.get("root_disk"),
        root_fstype=options.get("root_fstype"),
        root_options=options.get("root_options"),
    )


def _rlimit(name: str, soft: int, hard: int) -> tuple[int, int, int]:
    import resource

    number = getattr(resource, f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}", None)
    if not isinstance(number, int):
        raise UsageError(f"there is no resource limit {name!r}", "names as in RLIMIT_NOFILE: nofile, nproc, as, ...")
    largest = (1 << 64) - 1
    soft, hard = (largest if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if not 0 <= soft <= hard <= largest:
        raise UsageError(f"rlimits {name!r}: the soft limit is above the hard one, or below 0")
    return number, soft, hard


def _publish(texts: Sequence[str]) -> tuple[Any, ...]:
    if not texts:
        return ()
    from pykrun.net import parse

    return tuple(parse(text) for text in ([texts] if isinstance(texts, str) else texts))


def _whole(name: str, value: int, largest: int) -> int:
    if not isinstance(value, int) or not 1 <= value <= largest:
        raise UsageError(f"{name} is a whole number from 1 to {largest}, not {value!r}")
    return value


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UsageError(f"{name} is one of {', '.join(known)}, not {value!r}")
    return value


def _path(path: StrPath | None) -> str | None:
    return None if path is None else os.path.abspath(path)
