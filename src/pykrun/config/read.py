"""A file, as words of the command line; what is wrong in it is said with its line and its key."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from pykrun.config.lines import Path, find_lines
from pykrun.config.schema import KEYS, Place, Words, Wrong, array, text
from pykrun.errors import UsageError
from pykrun.record import record

LIMIT = 4 << 20
"""Bytes of a file; what never ends (/dev/zero) has more too."""
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_WHERE = re.compile(r" \(at line (\d+), column (\d+)\)$")


@record(frozen=True, slots=True)
class Described:
    """What a file says.

    :param options: words for `pykrun run`.
    :param command: the command; empty when the file has none.
    """

    options: Words
    command: Words


def read(file: str, checks: Mapping[str, Callable[[str], object]] | None = None) -> Described:
    """Read and check a file.

    :param checks: what says of the value of a key's option that it cannot be (UsageError).
    :raise UsageError: it cannot be read, or something in it cannot be: `FILE:LINE: KEY: what is wrong`.
    """
    import tomllib

    try:
        with open(file, "rb") as stream:
            data = stream.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise UsageError(f"--config: {file!r} is no description of a machine: it has more than {LIMIT >> 20} MiB")
        content = data.decode()
        document = tomllib.loads(content)
    except OSError as error:
        raise UsageError(f"--config: cannot read {file!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8, as TOML has to be") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = _WHERE.search(message)
        line = where[1] if where else str(content.count("\n") + 1)
        column = f" (column {where[2]})" if where else ""
        raise UsageError(f"{file}:{line}: {_WHERE.sub('', message)}{column}") from None
    place = Place(os.path.dirname(os.path.abspath(file)))
    options: Words = []
    command: Words = []
    for key, value in document.items():
        try:
            if key == "command":
                command = [text(word, index) for index, word in enumerate(array(value))]
            elif key in KEYS:
                words = KEYS[key](value, place)
                _check(words, (checks or {}).get(key))
                options += words
            else:
                raise Wrong("is not known" + _guess(key))
        except Wrong as wrong:
            raise _located(file, content, (key, *wrong.path), str(wrong)) from None
    return Described(options, command)


def _check(words: Words, check: Callable[[str], object] | None) -> None:
    """Check the options' values; one that begins with a dash is in its option's word."""
    if check is None:
        return
    rest = iter(words)
    for word in rest:
        _, equals, value = word.partition("=")
        try:
            check(value if equals else next(rest))
        except UsageError as error:
            raise Wrong(str(error)) from None


def _located(file: str, content: str, path: Path, message: str) -> UsageError:
    lines = find_lines(content)
    line = next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 1)
    return UsageError(f"{file}:{line}: {_dotted(path)}: {message}")


def _dotted(path: Path) -> str:
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            name = part if _PLAIN.fullmatch(part) else '"' + part.replace('"', '\\"') + '"'
            shown += f".{name}" if shown else name
    return shown


def _guess(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key.replace("-", "_"), [*KEYS, "command"], 1)
    return f"; did you mean {near[0]}?" if near else f"; there are command, {', '.join(KEYS)}"
