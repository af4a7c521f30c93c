"""A workload that is held back: everything is ready, and the host says when it starts (docs/control-port.md)."""

from __future__ import annotations

from krun_init import control as frames
from krun_init.errors import Ending, InitError
from krun_init.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.control import Control, Values
    from krun_init.timesync import Clock

_SIGTERM = 15


def wait(control: Control | None, clock: Clock | None) -> Ending | None:
    """Wait for the host's BEGIN; how the run ends if it says STOP instead.

    The clock is kept meanwhile; whatever else the host says is heard when the workload runs.

    :raise InitError: there is no host to say it.
    """
    if control is None:
        raise InitError("the workload is held, and there is no control port to let it go")
    loop = Loop()
    control.attach(loop)
    kept: list[tuple[int, int, Values]] = []
    word = 0

    def hear(kind: int, process: int, values: Values) -> None:
        nonlocal word
        if word == 0 and kind in (frames.BEGIN, frames.STOP):
            word = kind
        elif word == 0 and kind == frames.TIME:
            if clock is not None:
                clock.hear(values[0])
        else:
            kept.append((kind, process, values))

    control.listen(hear)
    while not word and control.fd is not None:
        loop.turn()
    control.keep(kept)
    if control.fd is not None:
        loop.remove(control.fd)
    return None if word == frames.BEGIN else Ending(128 + _SIGTERM, _SIGTERM)
