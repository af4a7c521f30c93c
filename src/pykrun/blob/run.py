"""Running the programs of a build: bounded, logged, their failure as one error that names the log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pykrun.errors import BlobError

BUILD_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC0"}
"""Beside PATH, all that compilers see: what a user has set (CFLAGS, ...) has no part in the blob."""


def tool_path() -> str:
    """PATH for the build; never empty."""
    return os.environ.get("PATH") or "/usr/bin:/bin"


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 1800,
) -> str:
    """Run to the end with its output in the log; returns that output.

    :param environment: the whole of it; by default PATH and BUILD_ENVIRONMENT.
    :param timeout: seconds.
    :raise BlobError: it could not be started, failed or took too long.
    """
    if environment is None:
        environment = {"PATH": tool_path(), **BUILD_ENVIRONMENT}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise BlobError(f"{command[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BlobError(f"{command[0]} took more than {timeout:.0f} seconds") from error
    output = done.stdout.decode(errors="replace")
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(f"$ {' '.join(command)}\n{output}")
    if done.returncode:
        raise BlobError(f"{Path(command[0]).name} failed: {_reason(output)}", f"all of it: {log}")
    return output


def _reason(output: str) -> str:
    """The line that most likely says why: the first that speaks of an error, else the last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower() and "-Werror" not in line:
            return line
    return lines[-1] if lines else "no output"
