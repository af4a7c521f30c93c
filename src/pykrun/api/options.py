"""The options of a VM and its command, under the same names in Python, in `vm.toml` and on the command line."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import IO, Any, TypedDict

from pykrun.api.root import Root, StrPath, host_path
from pykrun.errors import UsageError
from pykrun.machine import disk_place
from pykrun.request import ImageRoot, Request
from pykrun.start_data import LONGEST_GRACE, StartData, User

Stream = int | IO[Any] | None
"""A standard stream as in subprocess: None (ours), PIPE, DEVNULL, STDOUT, a descriptor or an open file."""


class Options(TypedDict, total=False):
    """What may be said about a VM and its command; all of it may be left out.

    The root: `root`, a `Root` or a directory; `read_only` for a directory; `image`, `writable` as `Root` has them;
    `entrypoint` in place of the image's, "" for none.
    The command: `env`, `workdir`, `user` (uid, or uid and gid), `hostname`, `rlimits` ({"nofile": (soft, hard)}),
    `tty`, `grace` (seconds between TERM and KILL when the VM is stopped).
    The machine: `engine` (auto, uml, qemu), `accel` (auto, kvm, tcg), `kernel`, `modules`, `kernel_args`, `cpus`,
    `memory` (MiB), `net` (none, user), `publish` (["8080:80"]), `root_disk` (/dev/vda1), `root_fstype`,
    `root_options`, `sandbox` (auto, require), `boot_log` (a file), `name` (what `pykrun ps` calls it; else one is made
    up).
    """

    root: Root | StrPath | None
    read_only: bool
    image: StrPath
    entrypoint: str
    writable: StrPath
    env: Mapping[str, str]
    workdir: str
    user: int | tuple[int, int] | str
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
    name: str
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
        for name in ("read_only", "image", "writable"):
            if name in options:
                raise UsageError(f"{name} beside a Root", f"say Root(..., {name}=...)")
        return given
    return Root(
        given,
        image=options.get("image"),
        read_only=options.get("read_only", False),
        writable=options.get("writable"),
    )


def has_image(options: Options) -> bool:
    """Whether an image is the root, and may know itself what to run."""
    root = options.get("root")
    return options.get("image") is not None or (isinstance(root, Root) and root.image is not None)


def words_of(command: Sequence[str | bytes | os.PathLike[str]], *, optional: bool = False) -> tuple[str | bytes, ...]:
    """Check a command.

    :param optional: it may be empty.
    :raise UsageError: it is not a list of words that a program can be given.
    """
    hint = 'for a shell line: ["/bin/sh", "-c", "..."]'
    if isinstance(command, str | bytes | os.PathLike):
        raise UsageError(f"a command is a list of words, not {command!r}", hint)
    try:
        words = tuple(os.fspath(word) for word in command)
    except TypeError as error:
        raise UsageError(f"a command is a list of words: {error}", hint) from None
    if not (words or optional) or (words and not words[0]):
        raise UsageError(f"a command is a list of words, and the first is its program, not {command!r}", hint)
    for word in words:
        _check_text("the command", word)
    return words


def make_request(command: Sequence[str | bytes], options: Options) -> Request:
    """Check the options and put the request together; streams and opened files are added later.

    :param command: what `words_of` gave.
    :raise UsageError: something cannot be.
    """
    for name in options.keys() - NAMES:
        raise UsageError(f"there is no option {name!r}", f"options: {', '.join(sorted(NAMES))}")
    root = root_of(options)
    net = _one_of("net", options.get("net", "none"), ("none", "user"))
    publish = _publish(options.get("publish", ()))
    cpus = options.get("cpus")
    return Request(
        start=_start(command, options, root),
        root=root.tree(),
        image=_image(options, root),
        writable=root.writable,
        volumes=root.volumes,
        disks=root.disks,
        engine=_one_of("engine", options.get("engine", "auto"), ("auto", "uml", "qemu")),
        accel=_one_of("accel", options.get("accel", "auto"), ("auto", "kvm", "tcg")),
        kernel=_path("kernel", options.get("kernel")),
        modules=_path("modules", options.get("modules")),
        kernel_args=_kernel_args(options.get("kernel_args", ())),
        cpus=None if cpus is None else _whole("cpus", cpus, 255),
        memory_mib=_whole("memory", options.get("memory", 256), 1 << 20),
        network=net == "user" or bool(publish),
        publish=publish,
        sandbox=_one_of("sandbox", options.get("sandbox", "auto"), ("auto", "require")),
        boot_log=_path("boot_log", options.get("boot_log")),
        name=_name(options.get("name")),
    )


def _start(command: Sequence[str | bytes], options: Options, root: Root) -> StartData:
    return StartData(
        program=command[0] if command else None,
        arguments=list(command[1:]),
        environment=check_environment(options.get("env", {})),
        workdir=_text("workdir", options.get("workdir")),
        hostname=_hostname(options.get("hostname")),
        user=None if root.image else _user(options.get("user")),
        rlimits=read_rlimits(options.get("rlimits", {})),
        terminal=bool(options.get("tty", False)),
        grace=_seconds("grace", options.get("grace")),
        root_device=_root_disk(options),
        root_fstype=_text("root_fstype", options.get("root_fstype")),
        root_options=_text("root_options", options.get("root_options")),
        tmpfs=root.mounts,
    )


def _image(options: Options, root: Root) -> ImageRoot | None:
    given = options.get("entrypoint")
    entrypoint = given if given == "" else _text("entrypoint", given)
    if root.image is None:
        if entrypoint is not None:
            raise UsageError("entrypoint is for an image", "without one, the command's first word is the program")
        return None
    user = options.get("user")
    if user is not None and not isinstance(user, str):
        ids = _user(user)
        user = None if ids is None else f"{ids.uid}:{ids.gid}"
    return ImageRoot(reference=root.image, entrypoint=entrypoint, user=user)


def _name(given: Any) -> str:
    if given is None:
        return ""
    if not isinstance(given, str):
        raise UsageError(f"name is a text, not {given!r}")
    from pykrun.vms import check_name

    return check_name(given)


def check_environment(given: Any) -> dict[str, str]:
    """Return the variables.

    :raise UsageError: it is no mapping of names to texts.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"env is a mapping of names to texts, not {given!r}")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"env: {name!r} is {value!r}, and both have to be texts", "say str(...)")
        if not name or "=" in name or "\0" in name + value:
            raise UsageError(f"env: {name!r} cannot be a variable", "no empty name, no = in it, no NUL")
    return dict(given)


def _user(given: Any) -> User | None:
    if given is None:
        return None
    ids = (given, given) if isinstance(given, int) else given
    try:
        uid, gid = ids
        valid = all(isinstance(number, int) and 0 <= number < (1 << 32) - 1 for number in (uid, gid))
    except (TypeError, ValueError):
        valid = False
    if not valid or isinstance(given, bool):
        raise UsageError(
            f"user is a number or two (uid, gid), not {given!r}", "names are for images, which say who they are"
        )
    return User(uid=uid, gid=gid)


def _hostname(given: Any) -> str | None:
    name = _text("hostname", given)
    if name is not None and (not 1 <= len(name.encode()) <= 64 or "/" in name or not name.isprintable() or " " in name):
        raise UsageError(f"hostname wants 1 to 64 bytes without blanks or slashes, not {given!r}")
    return name


def _root_disk(options: Options) -> str | None:
    device = _text("root_disk", options.get("root_disk"))
    if device is None:
        for name in ("root_fstype", "root_options"):
            if options.get(name) is not None:
                raise UsageError(f"{name} is for a root_disk")
        return None
    if disk_place(device) is None:
        raise UsageError(f"root_disk is a disk or partition of the guest, like /dev/vda2, not {device!r}")
    return f"/dev/{device.removeprefix('/dev/')}"


def read_rlimits(given: Any) -> list[tuple[int, int, int]]:
    """`{"nofile": (soft, hard)}` as (RLIMIT number, soft, hard).

    :raise UsageError: it is none.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f'rlimits is a mapping like {{"nofile": (1024, 4096)}}, not {given!r}')
    return [_rlimit(name, pair) for name, pair in given.items()]


def _rlimit(name: str, pair: Any) -> tuple[int, int, int]:
    import resource

    number = getattr(resource, f"RLIMIT_{str(name).upper().removeprefix('RLIMIT_')}", None)
    if not isinstance(number, int):
        raise UsageError(f"there is no resource limit {name!r}", "names as in RLIMIT_NOFILE: nofile, nproc, as, ...")
    largest = (1 << 64) - 1
    try:
        soft, hard = (largest if limit == resource.RLIM_INFINITY else int(limit) for limit in pair)
    except (TypeError, ValueError):
        raise UsageError(f"rlimits {name!r} is a pair of numbers (soft, hard), not {pair!r}") from None
    if not 0 <= soft <= hard <= largest:
        raise UsageError(f"rlimits {name!r}: the soft limit is above the hard one, or below 0")
    return number, soft, hard


def _publish(texts: Any) -> tuple[Any, ...]:
    if not texts:
        return ()
    from pykrun.net import parse

    given = [texts] if isinstance(texts, str) else list(texts)
    for text in given:
        if not isinstance(text, str):
            raise UsageError(f'publish is a list of texts like "8080:80", not of {text!r}')
    return tuple(map(parse, given))


def _kernel_args(words: Any) -> tuple[str, ...]:
    if isinstance(words, str | bytes):
        raise UsageError(f"kernel_args is a list of words, not {words!r}")
    for word in words:
        plain = isinstance(word, str) and word.isascii() and word.isprintable() and not any(map(str.isspace, word))
        if not plain or not word or '"' in word or word == "--":
            raise UsageError(f"kernel_args: {word!r} is no word of a kernel's command line", "ASCII, no blank or quote")
    return tuple(words)


def _whole(name: str, value: int, largest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise UsageError(f"{name} is a whole number from 1 to {largest}, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= LONGEST_GRACE:
        raise UsageError(f"{name} is a number of seconds, not {value!r}")
    return float(value)


def check_grace(given: Any) -> float | None:
    """Return the seconds between TERM and KILL; None is the VM's own grace, and infinity the longest there is.

    :raise UsageError: it is no number of seconds.
    """
    if given is None:
        return None
    if not isinstance(given, int | float) or not given >= 0:
        raise UsageError(f"grace is a number of seconds, not {given!r}")
    return float(min(given, LONGEST_GRACE))


def check_signal(given: Any) -> int:
    """Return the number of a signal.

    :raise UsageError: it is none of 1 to 64.
    """
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given < signal.NSIG:
        raise UsageError(f"a signal is a number from 1 to {signal.NSIG - 1}, not {given!r}")
    return int(given)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UsageError(f"{name} is one of {', '.join(known)}, not {value!r}")
    return value


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name} is a text, not {value!r}")
    _check_text(name, value)
    return value


def _check_text(name: str, value: str | bytes) -> None:
    if (b"\0" if isinstance(value, bytes) else "\0") in value:  # type: ignore[operator]  # the same kind on both sides
        raise UsageError(f"{name} has a NUL byte: {value!r}")


def _path(name: str, path: StrPath | None) -> str | None:
    return None if path is None else host_path(name, path)
