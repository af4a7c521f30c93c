"""The workload: what to execute, with which attributes. How it starts is `launch`'s (FreeBSD: `freebsd_launch`'s)."""

from __future__ import annotations

import errno

from krun_init import rlimits
from krun_init.errors import NOT_EXECUTABLE, NOT_FOUND, Ending, InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from krun_init.capabilities import Masks
    from krun_init.config import Config
    from krun_init.log import Log
    from krun_init.start import Start
    from krun_init.user import User


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


def enter(chdir: Callable[[str], None], path: str | None) -> None:
    """Go where the workload is to start.

    :param chdir: the kernel's call.
    :raise InitError: it cannot be entered.
    """
    try:
        chdir(path or "/")
    except OSError as error:
        raise InitError(f"working directory {path!r}: {reason_of(error)}") from None


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


def not_started(program: Workload, step: str, error: OSError) -> InitError:
    """Why the workload could not be started: which step before its execution failed."""
    return InitError(f"cannot start {program.argv[0]!r}: {step}: {reason_of(error)}")


def not_executed(program: Workload, error: OSError) -> Ending:
    """How a run ends whose program could not be executed."""
    code = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    return Ending(code, 0, f"Couldn't execute '{program.argv[0]}': {reason_of(error)}")
