"""`pykrun config`: the options of `pykrun run` that files and command line make together, as a file."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pykrun.cli import run as run_command
from pykrun.cli import values
from pykrun.cli.environment import environment
from pykrun.cli.run import split_words
from pykrun.config import show
from pykrun.errors import UsageError
from pykrun.start_data import RLIM_INFINITY

EPILOG = """It takes what `pykrun run` takes, runs nothing, and prints TOML that `pykrun run --config` reads.

examples:
  pykrun config --root / --read-only --memory 512 -- uname -a > vm.toml
  pykrun config --config vm.toml --engine qemu
"""

__all__ = ["EPILOG", "add_arguments", "effective", "run", "split_words"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pykrun run`."""
    run_command.add_arguments(parser)
    parser.usage = "pykrun config [OPTION...] [--] [COMMAND [ARG...]]"


def run(arguments: argparse.Namespace) -> int:
    """Print the description."""
    try:
        text = show(effective(arguments))
    except UnicodeEncodeError as error:
        word = repr(os.fsencode(error.object))[1:]
        raise UsageError(f"{word} is not UTF-8, and TOML cannot hold it", "leave it to the command line") from None
    print(text, end="")
    return 0


def effective(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options, by the names that a file has for them.

    :raise UsageError: one of them cannot be.
    """
    kernel, modules, log = map(_absolute, (arguments.kernel, arguments.modules, arguments.boot_log))
    return {
        "command": list(arguments.command),
        "root": _absolute(arguments.root),
        "image": _image(arguments.image),
        "entrypoint": arguments.entrypoint,
        "writable": arguments.writable if arguments.writable == "memory" else _absolute(arguments.writable),
        "read_only": arguments.read_only or None,
        "cache": arguments.cache,
        "root_disk": values.root_disk(arguments.root_disk, arguments.root_fstype, arguments.root_options),
        "root_fstype": values.file_system(arguments.root_fstype),
        "root_options": arguments.root_options,
        "workdir": arguments.workdir,
        "user": _user(arguments),
        "hostname": None if arguments.hostname is None else values.hostname(arguments.hostname),
        "tty": arguments.tty,
        "engine": arguments.engine,
        "accel": arguments.accel,
        "arch": arguments.arch,
        "kernel": kernel,
        "modules": modules,
        "kernel_args": list(arguments.kernel_arg),
        "cpus": None if arguments.cpus is None else values.positive("--cpus", arguments.cpus, largest=255),
        "memory": values.positive("--memory", arguments.memory, unit=" of MiB", largest=1 << 20),
        "net": arguments.net,
        "publish": list(arguments.publish),
        "name": values.vm_name(arguments.name) or None,
        "timeout": None if arguments.timeout is None else values.seconds("--timeout", arguments.timeout),
        "sandbox": arguments.sandbox,
        "boot_log": log,
        "env": environment(arguments.env, arguments.env_file),
        "rlimits": _rlimits(arguments.rlimit),
        "files": _files(arguments),
        "secrets": dict(_host_file("--secret", text) for text in arguments.secret),
        "directories": dict(_directory(text) for text in arguments.dir),
        "volumes": [_volume(text) for text in arguments.volume],
        "tmpfs": [_tmpfs(text) for text in arguments.tmpfs],
        "disks": _disks(arguments.disks),
    }


def _user(arguments: argparse.Namespace) -> list[int] | str | None:
    if arguments.user is None or arguments.image is not None:
        return str(arguments.user) if arguments.user else None
    user = values.user(arguments.user)
    return [user.uid, user.gid]


def _image(reference: str | None) -> str | None:
    if reference is None:
        return None
    from pykrun.image import absolute_reference

    return absolute_reference(reference)


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def _rlimits(texts: list[str]) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    for text in texts:
        _, soft, hard = values.rlimit(text)
        name = text.partition("=")[0].lower().removeprefix("rlimit_")
        found[name] = ["unlimited" if limit == RLIM_INFINITY else limit for limit in (soft, hard)]
    return found


def _files(arguments: argparse.Namespace) -> dict[str, Any]:
    texts: dict[str, Any] = dict(values.assignment("--text", text) for text in arguments.text)
    return texts | dict(_host_file("--file", text) for text in arguments.file)


def _host_file(option: str, text: str) -> tuple[str, dict[str, str]]:
    guest, rest = values.assignment(option, text)
    source, mode = values.source(option, rest)
    return guest, {"path": os.path.abspath(source)} | ({} if mode is None else {"mode": f"{mode:04o}"})


def _directory(text: str) -> tuple[str, str]:
    path, mode = values.directory(text)
    return path, f"{0o755 if mode is None else mode:04o}"


def _volume(text: str) -> dict[str, Any]:
    host, guest, read_only = values.volume(text)
    return {"host": os.path.abspath(host), "guest": guest, "read_only": read_only}


_UNITS = {"k": 10, "m": 20, "g": 30}


def _tmpfs(text: str) -> dict[str, Any]:
    guest, words = values.tmpfs(text)
    found: dict[str, Any] = {"guest": guest}
    for word in words[3:]:
        name, _, value = word.partition("=")
        number = value.rstrip("kmg")
        if name == "mode" and values.MODE.fullmatch(value):
            found["mode"] = value
        elif name == "size" and number.isdigit() and len(value) - len(number) < 2:
            found["size"] = int(number) << _UNITS.get(value[len(number) :], 0)
        else:
            raise UsageError(f"--tmpfs {text!r}: a file knows no {word!r}", "it has a size in bytes and a mode")
    return found


def _disks(options: list[tuple[str, str]]) -> list[dict[str, Any]]:
    found = []
    for image, kind in values.disk_formats(options):
        path, read_only = values.disk_image(image)
        found.append({"image": os.path.abspath(path), "read_only": read_only, "format": kind})
    return found
