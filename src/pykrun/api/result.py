"""What came of a run."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Data = TypeVar("Data", bytes, str, bytes | str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[Data]):
    """How a command in a VM ended.

    :ivar args: the command.
    :ivar exit_code: as a shell would see it: the command's; 128+n when a signal ended it; 126 it could not be executed,
        127 it was not found.
    :ivar signal: what ended it, 0 for an exit.
    :ivar stdout: what it wrote, None where that was not captured; text or bytes as was asked for.
    :ivar stderr: likewise.
    :ivar reason: one line when something other than the command failed, else empty.
    :ivar timing: seconds from the request to each phase: `launched`, `init` (the kernel is up), `started` (the command
        runs), `output` (its first byte), `exited`, `done` (synced), `ended`.
    :ivar engine: what ran the VM.
    :ivar isolation: how the engine was isolated from this host.
    :ivar warnings: what was not to be had as it was asked for.
    """

    args: Sequence[str | bytes]
    exit_code: int
    signal: int = 0
    stdout: Data | None = None
    stderr: Data | None = None
    reason: str = ""
    timing: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    isolation: str = ""
    warnings: Sequence[str] = ()

    def check(self) -> None:
        """Raise unless the exit code is 0.

        :raise subprocess.CalledProcessError: it is not; a signal is a negative `returncode` there.
        """
        if self.exit_code:
            code = -self.signal if self.signal else self.exit_code
            error = subprocess.CalledProcessError(code, list(self.args), self.stdout, self.stderr)
            if self.reason:
                error.add_note(self.reason)
            raise error
