"""What a run came to: one exit code and one reason out of everything that was heard."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pykrun import engine as engines
from pykrun.record import record

if TYPE_CHECKING:
    from pykrun.sandbox import Ended
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
    :param ended: how the engine ended.
    :param lost: why output could not be written, or empty.
    """

    decided: tuple[int, str] | None
    exit: Exit | None
    reported: int | None
    greeted: bool
    pid1: bool
    console: bytes
    ended: Ended | None
    lost: str


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
    if heard.ended is not None and heard.ended.error:
        return SET_UP_FAILED, f"the engine did not start: {heard.ended.error}", True
    what = "the guest's kernel panicked" if engines.PANIC in heard.console else "the VM ended"
    return SET_UP_FAILED, f"{what} before it reported an exit code ({_status(heard.ended)})", True


def _status(ended: Ended | None) -> str:
    if ended is None or ended.status is None:
        return "its engine was killed"
    code = os.waitstatus_to_exitcode(ended.status)
    return f"its engine exited with {code}" if code >= 0 else f"its engine died of signal {-code}"
