"""What a shim says, and what it is told."""

from __future__ import annotations

from pykrun.errors import (
    BlobError,
    EngineError,
    MissingError,
    PeerError,
    PykrunError,
    SandboxError,
    UsageError,
)
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.request import Outcome

SIGNAL, STOP, END, HEARD, VISIT = "signal", "stop", "end", "heard", "visit"
"""Commands: `(SIGNAL, number)`, `(STOP, grace or None, exit code)`, `(END, exit code)`, `(HEARD, number)`, and
`(VISIT,)` with a socket that becomes a connection at the VM's door."""

KINDS: dict[str, type[PykrunError]] = {
    kind.__name__: kind
    for kind in (PykrunError, UsageError, MissingError, BlobError, SandboxError, EngineError, PeerError)
}


@record(frozen=True, slots=True)
class Reached:
    """A phase of the run (`Outcome.phases`), and its time (`time.monotonic`)."""

    phase: str
    when: float


@record(frozen=True, slots=True)
class Named:
    """The VM runs, and is listed under that name; an empty one where it is not listed."""

    name: str


@record(frozen=True, slots=True)
class Failed:
    """There was no VM; the last thing that is said.

    :param kind: the error's class, of `KINDS`; anything else is a fault of pykrun's own.
    :param number: the errno, where it was a system call that failed.
    """

    kind: str
    message: str
    hint: str = ""
    number: int = 0

    def error(self) -> PykrunError:
        """The error, to be raised on this side."""
        return KINDS.get(self.kind, PykrunError)(self.message, self.hint)


@record(frozen=True, slots=True)
class Ended:
    """The VM is gone, and this is how it went; the last thing that is said."""

    outcome: Outcome


Event = Reached | Named | Failed | Ended
