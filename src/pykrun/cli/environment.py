"""The variables of a command in a VM, as options say them."""

from __future__ import annotations

import os

from pykrun.errors import UsageError

LIMIT = 16 << 20
"""Bytes of a file; what never ends (/dev/zero) has more too."""


def environment(items: list[str], files: list[str]) -> dict[str, str]:
    """`K=V` words and the lines of `--env-file`s; later ones win, words win over files."""
    result: dict[str, str] = {}
    for path in files:
        result.update(_environment_file(path))
    for item in items:
        key, equals, value = item.partition("=")
        if not equals and key in os.environ:
            value, equals = os.environ[key], "="
        if not key or not equals:
            raise UsageError(f"--env wants K=V, or the name of a variable that is set here, not {item!r}")
        result[key] = value
    return result


def _environment_file(path: str) -> dict[str, str]:
    try:
        with open(path, "rb") as stream:
            data = stream.read(LIMIT + 1)
    except OSError as error:
        raise UsageError(f"--env-file: cannot read {path!r}: {error.strerror}") from None
    if len(data) > LIMIT:
        raise UsageError(f"--env-file: {path!r} is no list of variables: it has more than {LIMIT >> 20} MiB")
    lines = os.fsdecode(data).split("\n")
    result = {}
    for number, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not key or not equals or "\0" in line:
            raise UsageError(f"--env-file: {path}:{number} is not K=V")
        result[key] = value
    return result
