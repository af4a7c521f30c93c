"""What goes wrong in the guest, and how a run ends."""

from __future__ import annotations

SETUP_FAILED = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127


class InitError(Exception):
    """Init cannot go on; the message is the reason that people read, the exit code is 125."""


class ProtocolError(Exception):
    """The host's bytes on the control port break the protocol; init goes on without the port."""


class Ending:
    """How the run ended: exit code, the signal that ended the workload or 0, and why init failed or nothing."""

    __slots__ = ("code", "reason", "signal")

    def __init__(self, code: int, signal: int = 0, reason: str = "") -> None:
        self.code = code
        self.signal = signal
        self.reason = reason


_NO_WORDS = "No error information"  # musl's, for numbers of which it has none


def reason_of(error: OSError) -> str:
    """The kernel's words alone, without number and file name."""
    text = error.strerror
    return text if text and text != _NO_WORDS else f"error {error.errno}"


def describe(error: BaseException) -> str:
    """One line for an exception that nobody expected, with the place it comes from."""
    text = f"internal error: {type(error).__name__}: {error}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None:
        code = trace.tb_frame.f_code
        text += f" (in {code.co_qualname}, line {trace.tb_lineno} of {code.co_filename})"
    return text
