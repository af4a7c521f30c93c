"""Programs that use the API, run in processes of their own: the start ends them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.command import FIND, Pykrun

LIMIT = 60.0
"""Seconds after which a program counts as hung."""

PRELUDE = f"""{FIND}
import errno, os, sys, threading
from pykrun.krun import *

def good(result):
    if isinstance(result, int) and result < 0:
        sys.exit(f"failed with {{errno.errorcode[-result]}}")
    return result

root, engine = sys.argv[1:3]
arguments = sys.argv[3:]
good(krun_init_log(2, 2, 2, 1))
ctx = good(krun_create_ctx())
"""
START = """
result = krun_start_enter(ctx)
sys.exit(f"the start returned {result}")
"""
NO_NETWORK = "good(krun_disable_implicit_vsock(ctx))\n"
"""Nothing in place of TSI: a network takes its time, and most tests are not about it."""


@dataclass(frozen=True)
class Result:
    """How a program ended and what it wrote."""

    code: int
    out: bytes
    err: bytes


class Programs:
    """Runs them: `root` is a directory with a shell, `engine` what runs the VM."""

    def __init__(self, engine: str, root: Path, pykrun: Pykrun) -> None:
        self.engine = engine
        self.root = root
        self.pykrun = pykrun
        self.env: dict[str, str] = {}
        self.python = sys.executable

    @property
    def folder(self) -> Path:
        """The working directory; has to be empty afterwards."""
        return self.pykrun.folder / "tmp"

    def start(
        self, text: str, *arguments: object, start: str = START, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program: the prelude, `text`, and the start of the VM."""
        source = f"{PRELUDE}\n{text}\n{start}"
        words = [str(self.root), self.engine, *map(str, arguments)]
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        process = subprocess.Popen(
            [self.python, "-I", "-S", "-c", source, *words],
            env=self.pykrun.environment({"PYKRUN_ENGINE": self.engine, **self.env, **(env or {})}),
            cwd=self.folder,
            start_new_session=True,
            **options,
        )
        self.pykrun.adopt(process)
        return process

    def run(self, text: str, *arguments: object, stdin: bytes | None = None, **options: Any) -> Result:
        """Run one to its end."""
        if stdin is not None:
            options["stdin"] = subprocess.PIPE
        return finish(self.start(text, *arguments, **options), stdin)

    def shell(self, script: str, *, before: str = "", words: Sequence[str] = (), **options: Any) -> Result:
        """Run a shell script in a guest without a network whose root is the directory."""
        run = f"good(krun_set_exec(ctx, '/bin/sh', {['-c', script, 'sh', *words]!r}, []))"
        return self.run(f"{NO_NETWORK}good(krun_set_root(ctx, root))\n{before}\n{run}", **options)


def finish(process: subprocess.Popen[bytes], stdin: bytes | None = None, limit: float = LIMIT) -> Result:
    """Wait for a program's end.

    :raise AssertionError: it did not end in time.
    """
    try:
        out, err = process.communicate(stdin, limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end within {limit} s: {out[-2000:]!r} {err[-2000:]!r}") from None
    return Result(process.returncode, out, err)
