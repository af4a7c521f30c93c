"""What a file may say: each key, the values that it takes, and the options of the command line that it stands for.

The names are those of `pykrun.Options` and of `pykrun.Root`'s methods; the meaning is the options' own, so that there
is one way from a wish to a machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from pykrun.errors import UsageError
from pykrun.machine import DISK_FORMATS, disk_place

Words = list[str]
MODE = re.compile(r"[0-7]{3,4}")


class Wrong(Exception):
    """A value that cannot be.

    :ivar path: which one, below the key that is being read.
    """

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path = path


class Place:
    """The folder of a file, from which its paths are read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def path(self, value: Any, *where: str | int) -> str:
        """The absolute path of this host that a text means; `~` is the home."""
        name = text(value, *where)
        return os.path.normpath(os.path.join(self._folder, os.path.expanduser(name)))


Reader = Callable[[Any, Place], Words]


def text(value: Any, *where: str | int) -> str:
    """Any text but an empty one, and without NUL."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise Wrong(f"wants a text, not {_shown(value)}", *where)
    return value


def flag(value: Any, *where: str | int) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise Wrong(f"wants true or false, not {_shown(value)}", *where)
    return value


def array(value: Any, *where: str | int) -> list[Any]:
    """An array."""
    if not isinstance(value, list):
        raise Wrong(f"wants an array, not {_shown(value)}", *where)
    return value


def table(value: Any, known: tuple[str, ...], needed: tuple[str, ...], *where: str | int) -> dict[str, Any]:
    """A table with some of these keys."""
    if not isinstance(value, dict):
        raise Wrong(f"wants a table, not {_shown(value)}", *where)
    for name in value:
        if name not in known:
            raise Wrong(f"is not known; there are {', '.join(known)}", *where, name)
    for name in needed:
        if name not in value:
            raise Wrong(f"needs {name}", *where)
    return value


def guest(value: Any, *where: str | int) -> str:
    """An absolute path in the guest that an option can name."""
    path = text(value, *where)
    if not path.startswith("/") or "=" in path:
        raise Wrong(f"wants an absolute path in the guest without =, not {path!r}", *where)
    return path


def mode(value: Any, *where: str | int) -> str:
    """Permission bits, an octal number in a text (TOML's own octal numbers are numbers, whose digits are lost)."""
    if not isinstance(value, str) or not MODE.fullmatch(value):
        raise Wrong(f'wants an octal mode as a text, like "0644", not {_shown(value)}', *where)
    return value


def whole(option: str, largest: int) -> Reader:
    """A whole number from 1."""

    def read(value: Any, _: Place) -> Words:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise Wrong(f"wants a whole number from 1 to {largest}, not {_shown(value)}")
        return [option, str(value)]

    return read


def one_of(option: str, *known: str) -> Reader:
    """One of a few words."""

    def read(value: Any, _: Place) -> Words:
        if value not in known:
            raise Wrong(f"wants one of {', '.join(known)}, not {_shown(value)}")
        return [option, str(value)]

    return read


def _said(option: str, value: str) -> Words:
    """An option and its value, in one word where the value could be read as an option."""
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _text(option: str) -> Reader:
    return lambda value, _: _said(option, text(value))


def _image(value: Any, place: Place) -> Words:
    """A name stays one: what begins with a dot, a slash or `~` is a path, and what is behind a transport of files."""
    transport, colon, rest = text(value).partition(":")
    if colon and rest and transport in ("oci", "oci-archive", "docker-archive"):
        return _said("--image", transport + colon + place.path(rest))
    if value.startswith((".", "/", "~")):
        return _said("--image", place.path(value))
    return _said("--image", value)


def _entrypoint(value: Any, _: Place) -> Words:
    """A text; an empty one takes the image's away."""
    return _said("--entrypoint", "" if value == "" else text(value))


def _path(option: str) -> Reader:
    return lambda value, place: [option, place.path(value)]


def _seconds(value: Any, _: Place) -> Words:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e9:
        raise Wrong(f"wants a positive number of seconds, not {_shown(value)}")
    return ["--timeout", str(value)]


def _env(value: Any, _: Place) -> Words:
    if not isinstance(value, dict):
        raise Wrong(f"wants a table, not {_shown(value)}")
    words = []
    for name, content in value.items():
        if not isinstance(content, str) or "\0" in content:
            raise Wrong(f"wants a text, not {_shown(content)}", name)
        if not name or "=" in name:
            raise Wrong("cannot be the name of a variable", name)
        words += _said("--env", f"{name}={content}")
    return words


def _user(value: Any, _: Place) -> Words:
    if isinstance(value, str):  # a name, which only an image can know
        return _said("--user", text(value))
    numbers = value if isinstance(value, list) else [value]
    valid = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers)
    if not valid or len(numbers) not in (1, 2):
        raise Wrong(f"wants a number or [uid, gid], not {_shown(value)}")
    return ["--user", ":".join(map(str, numbers))]


def _rlimits(value: Any, _: Place) -> Words:
    words = []
    for name, pair in table(value, tuple(value) if isinstance(value, dict) else (), ()).items():
        limits = pair if isinstance(pair, list) else [pair]
        valid = all(limit == "unlimited" or (isinstance(limit, int) and limit >= 0) for limit in limits)
        if not valid or len(limits) not in (1, 2):
            raise Wrong(f'wants [soft, hard], numbers or "unlimited", not {_shown(pair)}', name)
        words += _said("--rlimit", f"{name}={':'.join(map(str, limits))}")
    return words


def _publish(value: Any, _: Place) -> Words:
    from pykrun.net import parse

    words = []
    for index, one in enumerate(array(value)):
        try:
            parse(text(one, index))
        except UsageError as error:
            raise Wrong(str(error), index) from None
        words += ["--publish", one]
    return words


def _kernel_args(value: Any, _: Place) -> Words:
    return [word for index, one in enumerate(array(value)) for word in _said("--kernel-arg", text(one, index))]


def _files(value: Any, place: Place) -> Words:
    words: Words = []
    for name, content in table(value, tuple(value) if isinstance(value, dict) else (), ()).items():
        path = guest(name, name)
        if isinstance(content, str):
            words += ["--text", f"{path}={content}"]
            continue
        given = table(content, ("path", "mode"), ("path",), name)
        words += ["--file", f"{path}={place.path(given['path'], name, 'path')}{_mode_of(given, name)}"]
    return words


def _secrets(value: Any, place: Place) -> Words:
    words = []
    for name, content in table(value, tuple(value) if isinstance(value, dict) else (), ()).items():
        given = table(content, ("path", "mode"), ("path",), name)
        host = place.path(given["path"], name, "path")
        words += ["--secret", f"{guest(name, name)}={host}{_mode_of(given, name)}"]
    return words


def _mode_of(given: Mapping[str, Any], name: str) -> str:
    return f":{mode(given['mode'], name, 'mode')}" if "mode" in given else ""


def _directories(value: Any, _: Place) -> Words:
    given = table(value, tuple(value) if isinstance(value, dict) else (), ())
    return [word for name, bits in given.items() for word in ("--dir", f"{guest(name, name)}:{mode(bits, name)}")]


def _volumes(value: Any, place: Place) -> Words:
    words: Words = []
    for index, one in enumerate(array(value)):
        given = table(one, ("host", "guest", "read_only"), ("host", "guest"), index)
        rule = "ro" if flag(given.get("read_only", False), index, "read_only") else "rw"
        where = guest(given["guest"], index, "guest")
        if ":" in where:
            raise Wrong("cannot have a colon", index, "guest")
        words += ["--volume", f"{place.path(given['host'], index, 'host')}:{where}:{rule}"]
    return words


def _disks(value: Any, place: Place) -> Words:
    words: Words = []
    for index, one in enumerate(array(value)):
        given = table(one, ("image", "read_only", "format"), ("image",), index)
        kind = given.get("format", "raw")
        if kind not in DISK_FORMATS:
            raise Wrong(f"wants one of {', '.join(DISK_FORMATS)}, not {_shown(kind)}", index, "format")
        rule = ":ro" if flag(given.get("read_only", False), index, "read_only") else ""
        words += ["--disk-format", kind, "--disk", place.path(given["image"], index, "image") + rule]
    return words


def _tmpfs(value: Any, _: Place) -> Words:
    words: Words = []
    for index, one in enumerate(array(value)):
        given = table(one, ("guest", "size", "mode"), ("guest",), index)
        options = []
        if "size" in given:
            size = given["size"]
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise Wrong(f"wants a number of bytes, not {_shown(size)}", index, "size")
            options.append(f"size={size}")
        if "mode" in given:
            options.append(f"mode={mode(given['mode'], index, 'mode')}")
        words += ["--tmpfs", ":".join([guest(given["guest"], index, "guest"), *filter(None, [",".join(options)])])]
    return words


def _root_disk(value: Any, _: Place) -> Words:
    if disk_place(text(value)) is None:
        raise Wrong(f"wants a disk or partition of the guest, like /dev/vda2, not {value!r}")
    return ["--root-disk", value]


KEYS: dict[str, Reader] = {
    "root": _path("--root"),
    "image": _image,
    "entrypoint": _entrypoint,
    "writable": lambda value, place: ["--writable", value if value == "memory" else place.path(value)],
    "read_only": lambda value, _: ["--read-only"] if flag(value) else [],
    "cache": one_of("--cache", "auto", "always", "never"),
    "files": _files,
    "secrets": _secrets,
    "directories": _directories,
    "volumes": _volumes,
    "tmpfs": _tmpfs,
    "disks": _disks,
    "root_disk": _root_disk,
    "root_fstype": _text("--root-fstype"),
    "root_options": _text("--root-options"),
    "env": _env,
    "workdir": _text("--workdir"),
    "user": _user,
    "hostname": _text("--hostname"),
    "rlimits": _rlimits,
    "tty": lambda value, _: ["--tty" if flag(value) else "--no-tty"],
    "engine": one_of("--engine", "auto", "uml", "qemu"),
    "accel": one_of("--accel", "auto", "kvm", "tcg"),
    "arch": _text("--arch"),
    "kernel": _path("--kernel"),
    "modules": _path("--modules"),
    "kernel_args": _kernel_args,
    "cpus": whole("--cpus", 255),
    "memory": whole("--memory", 1 << 20),
    "net": one_of("--net", "none", "user"),
    "publish": _publish,
    "name": _text("--name"),
    "timeout": _seconds,
    "sandbox": one_of("--sandbox", "auto", "require"),
    "boot_log": _path("--boot-log"),
}
"""Beside `command`, an array of words."""


def _shown(value: Any) -> str:
    words = {True: "true", False: "false"}
    if isinstance(value, bool):
        return words[value]
    return f"a {'table' if isinstance(value, dict) else 'array'}" if isinstance(value, dict | list) else repr(value)
