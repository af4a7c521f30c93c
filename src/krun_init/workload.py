"""The workload: what to execute, with which attributes, and how it starts."""

from __future__ import annotations

import errno

from krun_init import _linux, rlimits
from krun_init.errors import NOT_EXECUTABLE, NOT_FOUND, Ending, InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from krun_init.capabilities import Masks
    from krun_init.config import Config
    from krun_init.log import Log
    from krun_init.start import Start
    from krun_init.user import User

OWN_GROUP, OWN_SESSION, SAME_SESSION = range(3)  # as _linux.spawn has them
NO_STREAMS = (-1, -1, -1)


class Workload:
    """Everything about the program to run but its streams."""

    __slots__ = ("argv", "capabilities", "env", "no_new_privs", "path", "rlimits", "user")

    def __init__(self, argv: list[str], variables: Mapping[str, str], user: User | None) -> None:
        self.argv = argv
        self.env = [f"{key}={value}" for key, value in variables.items()]
        self.path = variables["PATH"]
        self.user = user
        self.rlimits: list[tuple[int, int, int]] = []
        self.capabilities: Masks | None = None
        self.no_new_privs = False

    def spawn(self, streams: tuple[int, int, int], session: int, terminal: int) -> int | Ending:
        """Execute it in a child: the pid, or why not.

        :raise InitError: a step before the execution failed.
        """
        return self._start(_linux.spawn, streams, session, terminal)

    def become(self, streams: tuple[int, int, int], heir: Callable[[], None] | None = None) -> int | Ending:
        """Execute it in this very process (KRUN_INIT_PID1); returns only when that fails.

        :param heir: goes on here in our place, in a child (`_linux.execute`).
        :raise InitError: a step before the execution failed.
        """
        return self._start(_linux.execute, streams, SAME_SESSION, -1, heir=heir)

    def _start(
        self,
        function: Callable[..., int],
        streams: tuple[int, int, int],
        session: int,
        terminal: int,
        **more: Callable[[], None] | None,
    ) -> int | Ending:
        user = self.user
        try:
            return function(
                candidates(self.argv[0], self.path),
                self.argv,
                self.env,
                streams=streams,
                session=session,
                terminal=terminal,
                rlimits=self.rlimits,
                groups=None if user is None else user.groups,
                uid=-1 if user is None else user.uid,
                gid=-1 if user is None else user.gid,
                umask=-1 if user is None else user.umask,
                capabilities=self.capabilities,
                no_new_privs=self.no_new_privs,
                **more,
            )
        except OSError as error:
            return self._failed(error)

    def _failed(self, error: OSError) -> Ending:
        if error.filename != "execute":
            step = error.filename if error.filename2 is None else rlimits.describe(self.rlimits[error.filename2])
            raise InitError(f"cannot start {self.argv[0]!r}: {step}: {reason_of(error)}")
        code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
        return Ending(code, 0, f"Couldn't execute '{self.argv[0]}': {reason_of(error)}")


def compose(
    words: Mapping[str, str], rest: Sequence[str], variables: Mapping[str, str], start: Start, config: Config, log: Log
) -> Workload:
    """Put the workload together from all that was said about it; the start data wins over the config."""
    workload = Workload(choose_argv(words, rest, start, config), variables, start.user or config.user)
    limits = words.get("KRUN_RLIMITS")
    asked = rlimits.parse_words(limits, log) if limits else {}
    workload.rlimits = rlimits.merge(config.rlimits, asked, start.rlimits)
    workload.capabilities = config.capabilities
    workload.no_new_privs = config.no_new_privs
    return workload


def choose_argv(words: Mapping[str, str], rest: Sequence[str], start: Start, config: Config) -> list[str]:
    """KRUN_INIT and the words; else the config's argv; else the words; else a shell.

    :param rest: the words of the kernel command line, which count when there is no start data.
    """
    arguments = list(start.argv if start.present else rest)
    program = start.init if start.init is not None else words.get("KRUN_INIT")
    if program is not None:
        return [program, *arguments]
    return config.argv or arguments or ["/bin/sh"]


def candidates(program: str, path: str) -> list[str]:
    """What to try, in order, for a program's name (execvp(3)); an empty part of PATH is the working directory."""
    if "/" in program or not program:
        return [program]
    return [f"{folder}/{program}" if folder else program for folder in path.split(":")]
