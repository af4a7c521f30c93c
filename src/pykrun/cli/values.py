"""The values of options: text in, checked values out. Every complaint names the option and what it wants."""

from __future__ import annotations

import os
import re
import resource

from pykrun.errors import UsageError
from pykrun.machine import MAX_DISKS, Disk, disk_name, disk_place
from pykrun.start_data import RLIM_INFINITY, User

_MODE = re.compile(r"(.*):([0-7]{3,4})", re.DOTALL)
MODE = re.compile(r"[0-7]{3,4}")
MAX_ID = (1 << 32) - 2
"""The largest user or group id; the next one means "none" to the kernel."""


def assignment(option: str, text: str) -> tuple[str, str]:
    """Split `GUEST=HOST`."""
    left, equals, right = text.partition("=")
    if not equals or not left:
        raise UsageError(f"{option} wants GUEST=VALUE, not {text!r}")
    return left, right


def directory(text: str) -> tuple[str, int | None]:
    """`GUEST[:MODE]`: a directory and its mode, None for the usual one."""
    path, mode = with_mode(text)
    if mode is None:
        _check_mode("--dir", text)
    return path, mode


def source(option: str, text: str) -> tuple[str, int | None]:
    """`HOST[:MODE]`; a host file whose own name ends in `:644` is that file, not a mode."""
    path, mode = with_mode(text)
    if mode is not None:
        return (text, None) if os.path.exists(text) and not os.path.exists(path) else (path, mode)
    if not os.path.exists(text):
        _check_mode(option, text)
    return text, None


def _check_mode(option: str, text: str) -> None:
    """Refuse a name that ends in what was meant for a mode."""
    match = re.fullmatch(r".*:((?:0o)?[0-9]{1,5})", text, re.DOTALL)
    if match is not None:
        raise UsageError(
            f"{option}: {match[1]!r} is no MODE: three or four octal digits, as in 0755",
            f"for a name that ends so, say the mode too: {text}:0755",
        )


def with_mode(text: str) -> tuple[str, int | None]:
    """Take a trailing `:NNN` or `:NNNN` (octal) off."""
    match = _MODE.fullmatch(text)
    return (match[1], int(match[2], 8)) if match else (text, None)


def positive(option: str, text: str, *, unit: str = "", largest: int = 1 << 31) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= largest:
        raise UsageError(f"{option} wants a whole number{unit} from 1 to {largest}, not {text!r}")
    return int(text)


def descriptor(option: str, text: str) -> int:
    """The number of an open descriptor, above the standard streams."""
    if not text.isascii() or not text.isdigit() or not 3 <= int(text) < 1 << 20:
        raise UsageError(f"{option} wants the number of an open descriptor, from 3, not {text!r}")
    return int(text)


def seconds(option: str, text: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise UsageError(f"{option} wants a positive number of seconds, not {text!r}")
    return value


def user(text: str) -> User:
    """`UID[:GID]`, numbers; the group defaults to the same number."""
    uid, colon, gid = text.partition(":")
    numbers = [uid, gid if colon else uid]
    if not all(word.isascii() and word.isdigit() and int(word) <= MAX_ID for word in numbers):
        named = re.search("[^0-9:-]", text) is not None
        hint = "names live in the guest" if named else f"from 0 to {MAX_ID}, of which the group may be left out"
        raise UsageError(f"--user wants UID or UID:GID as numbers, not {text!r}", hint)
    return User(uid=int(numbers[0]), gid=int(numbers[1]))


def disks(options: list[tuple[str, str]]) -> tuple[Disk, ...]:
    """Open the images of `--disk` and `--disk-format` options, given in their order on the command line."""
    from pykrun.disk import open_image  # of use only here

    opened: list[Disk] = []
    try:
        for index, (image, kind) in enumerate(disk_formats(options)):
            path, read_only = disk_image(image)
            serial = f"pykrun-{disk_name(index)}"
            opened.append(open_image(path, read_only=read_only, format=kind, serial=serial))
    except BaseException:
        for disk in opened:
            os.close(disk.descriptor)
        raise
    return tuple(opened)


def disk_formats(options: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each disk and its format.

    A format holds for the disks that follow it, up to the next format; one that no disk follows holds for those before
    it that no other one is for.
    """
    wanted: list[tuple[str, str | None]] = []
    current: str | None = None
    for option, value in options:
        if option == "--disk":
            wanted.append((value, current))
        else:
            current = value
    if options and options[-1][0] != "--disk":
        wanted = [(image, chosen or current) for image, chosen in wanted]
        if not wanted:
            raise UsageError("--disk-format without a --disk")
    if len(wanted) > MAX_DISKS:
        raise UsageError(f"{len(wanted)} disks; a machine has at most {MAX_DISKS}")
    return [(image, chosen or "raw") for image, chosen in wanted]


def disk_image(text: str) -> tuple[str, bool]:
    """`IMAGE[:ro]`: its path, whether it is read-only; an image whose own name ends in `:ro` is that image."""
    path = text.removesuffix(":ro")
    if path != text and os.path.exists(text) and not os.path.exists(path):
        return text, False
    return path, path != text


def root_disk(device: str | None, fstype: str | None, options: str | None) -> str | None:
    """The guest's name of the disk or partition to boot into: `/dev/vda2`, or `vda2`."""
    if device is None:
        if fstype is not None or options is not None:
            raise UsageError("--root-fstype and --root-options are for a --root-disk")
        return None
    if disk_place(device) is None:
        raise UsageError(f"--root-disk wants a disk or partition of the guest, like /dev/vda2, not {device!r}")
    return f"/dev/{device.removeprefix('/dev/')}"


def file_system(name: str | None) -> str | None:
    """The name of a file system, as mount(2) takes it."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,30}", name):
        raise UsageError(f"--root-fstype wants the name of a file system, like ext4, not {name!r}")
    return name


def rlimit(text: str) -> tuple[int, int, int]:
    """`NAME=CUR[:MAX]`; NAME as in RLIMIT_NOFILE, with or without the prefix, in any case."""
    name, equals, limits = text.partition("=")
    number = getattr(resource, f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}", None)
    if not equals or not isinstance(number, int):
        known = ", ".join(sorted(word[7:].lower() for word in dir(resource) if word.startswith("RLIMIT_")))
        raise UsageError(f"--rlimit wants NAME=CUR:MAX, not {text!r}", f"names: {known}")
    current, colon, largest = limits.partition(":")
    soft = _limit(text, current)
    hard = _limit(text, largest) if colon else soft
    if soft > hard:
        raise UsageError(f"--rlimit {text!r}: the soft limit is above the hard one")
    return number, soft, hard


def _limit(option: str, text: str) -> int:
    if text in ("unlimited", "infinity", "-1"):
        return RLIM_INFINITY
    if not text.isascii() or not text.isdigit() or int(text) > RLIM_INFINITY:
        raise UsageError(f"--rlimit {option!r}: {text!r} is no limit", "a number, or unlimited")
    return int(text)


def volume(text: str) -> tuple[str, str, bool]:
    """`HOST:GUEST[:ro]`: the host's directory, where it is mounted, whether it is read-only."""
    rest, colon, mode = text.rpartition(":")
    if colon and mode in ("ro", "rw"):
        text = rest
    host, colon, guest = text.rpartition(":")
    if not colon or not host or not guest.startswith("/"):
        raise UsageError(f"--volume wants HOST:GUEST or HOST:GUEST:ro, GUEST an absolute path, not {text!r}")
    return host, guest, mode == "ro"


def tmpfs(text: str) -> tuple[str, tuple[str, ...]]:
    """`GUEST[:OPTION,...]`: where, and mount options (tmpfs(5)); programs in it may be executed unless `noexec`."""
    guest, colon, rest = text.partition(":")
    words = rest.split(",") if colon else []
    if not guest.startswith("/") or not all(re.fullmatch(r"[a-z_]+(=[\w%.:/-]+)?", word, re.ASCII) for word in words):
        raise UsageError(f"--tmpfs wants GUEST or GUEST:OPTION,..., as in /tmp:size=64m,mode=1777, not {text!r}")
    return guest, ("rw", "exec", "mode=1777", *words)


def hostname(text: str) -> str:
    """A host name: 1 to 64 bytes without white space or slash (UTS, sethostname(2))."""
    raw = os.fsencode(text)
    if not 1 <= len(raw) <= 64 or b"\0" in raw or b"/" in raw or any(byte <= 32 for byte in raw):
        raise UsageError(f"--hostname wants 1 to 64 bytes without blanks or slashes, not {text!r}")
    return text


def vm_name(text: str | None) -> str:
    """A VM's name; empty for one that is made up.

    :raise UsageError: no VM can be called so.
    """
    if text is None:
        return ""
    from pykrun.vms import check_name

    return check_name(text)
