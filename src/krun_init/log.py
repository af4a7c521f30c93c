"""Lines for people: over the control port once it is there, on the console before."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.control import Control

ERROR, WARNING, INFO, DEBUG = range(4)


class Log:
    """Where init's own lines go."""

    __slots__ = ("control",)

    def __init__(self) -> None:
        self.control: Control | None = None

    def warn(self, text: str) -> None:
        """Something did not work that init can do without."""
        self.line(WARNING, text)

    def line(self, level: int, text: str) -> None:
        """A line of any level; never raises."""
        if self.control is not None and self.control.log(level, text):
            return
        to_console(text)


def to_console(text: str) -> None:
    """Write a line to descriptor 2, which is the console unless somebody took it away."""
    try:
        posix.write(2, f"init: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass
