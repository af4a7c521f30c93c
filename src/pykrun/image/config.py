"""What an image says about the command to run, and what the caller's words make of it: Docker's precedence."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from pykrun.errors import ImageError, UsageError
from pykrun.image.documents import text, texts
from pykrun.record import field, record

_LAST_SIGNAL = 64


@record(frozen=True, slots=True, kw_only=True)
class Config:
    """The part of an image's configuration that a run follows (OCI image-spec 1.1, config.md).

    :param user: `USER[:GROUP]`, names or numbers; empty for 0:0.
    :param workdir: the working directory, empty for `/`.
    :param stop_signal: the number of the signal that asks the command to end.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    stop_signal: int = signal.SIGTERM

    def encode(self) -> dict[str, object]:
        """The same as an object of JSON, which `parse` reads."""
        return {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "Env": [f"{key}={value}" for key, value in self.environment.items()],
            "User": self.user,
            "WorkingDir": self.workdir,
            "StopSignal": str(self.stop_signal),
        }


def parse(what: str, found: Mapping[str, Any]) -> Config:
    """Read the object `config` of an image's configuration.

    :raise ImageError: a field has a wrong type, or cannot be.
    """
    variables = {}
    for pair in texts(what, found, "Env"):
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ImageError(f"{what}: Env has {pair[:80]!r}, which is not K=V")
        variables[key] = value
    return Config(
        entrypoint=tuple(texts(what, found, "Entrypoint")),
        command=tuple(texts(what, found, "Cmd")),
        environment=variables,
        user=text(what, found, "User"),
        workdir=text(what, found, "WorkingDir"),
        stop_signal=_signal(what, text(what, found, "StopSignal")),
    )


def _signal(what: str, name: str) -> int:
    """A signal by its name, with or without SIG, by SIGRTMIN+n, or by its number."""
    if not name:
        return signal.SIGTERM
    word = name.upper().removeprefix("SIG")
    base, plus, more = word.partition("+")
    number = None
    if word.isascii() and word.isdigit():
        number = int(word) if len(word) < 4 else None
    elif base == "RTMIN" and (not plus or (more.isascii() and more.isdigit() and len(more) < 3)):
        number = signal.SIGRTMIN + int(more or "0")
    elif word.isalnum() and isinstance(known := getattr(signal, f"SIG{word}", None), signal.Signals):
        number = int(known)
    if number is None or not 0 < number <= _LAST_SIGNAL:
        raise ImageError(f"{what}: there is no signal {name[:40]!r}")
    return number


@record(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute."""

    program: str
    arguments: tuple[str, ...]


def command_line(config: Config, entrypoint: str | None, words: Sequence[str]) -> Command:
    """Put the command together.

    The caller's entrypoint replaces the image's, and its command too; the caller's words replace the image's command.
    An empty entrypoint of the caller's takes the image's away.

    :raise UsageError: nothing is left to execute.
    """
    if entrypoint is None:
        line = [*config.entrypoint, *(words or config.command)]
    else:
        line = [*([entrypoint] if entrypoint else []), *words]
    if not line or not line[0]:
        raise UsageError("the image does not say what to execute", "name a COMMAND after the options")
    return Command(program=line[0], arguments=tuple(line[1:]))


def environment(config: Config, asked: Mapping[str, str], home: str) -> dict[str, str]:
    """The image's variables, the caller's over them, and the user's home directory where neither has a HOME."""
    return {"HOME": home, **config.environment, **asked}


def working_directory(config: Config, asked: str | None) -> str:
    """The caller's, else the image's, else `/`; what is not absolute counts from `/`."""
    path = asked or config.workdir or "/"
    return path if path.startswith("/") else os.path.join("/", path)
