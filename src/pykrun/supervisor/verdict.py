"""What a run came to: one exit code and one reason out of everything that was heard."""

from __future__ import annotations

from pykrun import engine as engines
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.supervisor.control import Exit

TIMED_OUT = 124
SET_UP_FAILED = 125


@record(slots=True, kw_only=True)
class Evidence:
    """What was heard until the engine ended.

    :param decided: our own verdict (code and reason), when we ended the VM.
    :param exit: what PID 1 said over the control port.
    :param reported: the last code that came through the file system's ioctl, which any process of the guest can send.
    :param greeted: PID 1 spoke on the control port, so its word is the one that counts.
    :param pid1: the workload was PID 1 itself.
    :param console: the end of what the kernel printed.
    :param failed: why the engine never ran, or empty.
    :param end: how the engine ended, in a few words.
    :param lost: why output could not be written, or empty.
    :param is_free: a firmware booted it: nobody is to report, and an engine that ends by itself has done all it had to.
    """

    decided: tuple[int, str] | None
    exit: Exit | None
    reported: int | None
    greeted: bool
    pid1: bool
    console: bytes
    failed: str
    end: str
    lost: str
    is_free: bool = False


def judge(heard: Evidence) -> tuple[int, str, bool]:
    """Return exit code, reason, and whether the kernel's last words help to understand it."""
    code, reason, console = _judge(heard)
    if heard.lost and not reason:  # the workload may have ended well: what it said has not arrived
        return code or SET_UP_FAILED, heard.lost, False
    return code, reason, console


def _judge(heard: Evidence) -> tuple[int, str, bool]:
    if heard.decided is not None:
        code, reason = heard.decided
        return code, reason, code == SET_UP_FAILED
    if heard.exit is not None:
        return heard.exit.code, heard.exit.reason, False
    if heard.pid1 and (panic := engines.panic_exit_code(heard.console)) is not None:
        return panic, "", False
    if heard.reported is not None and (heard.pid1 or not heard.greeted):
        return heard.reported, "", heard.reported == SET_UP_FAILED
    if heard.failed:
        return SET_UP_FAILED, f"the engine did not start: {heard.failed}", True
    if heard.is_free and heard.end.endswith(" exited with 0"):
        return 0, "", False
    what = "the guest's kernel panicked" if engines.PANIC in heard.console else "the VM ended"
    return SET_UP_FAILED, f"{what} before it reported an exit code ({heard.end})", True
