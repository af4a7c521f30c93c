"""How the workload starts: by `_linux.spawn` in a child, or by `_linux.execute` in this very process."""

from __future__ import annotations

from krun_init import _linux, rlimits, workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from krun_init.errors import Ending
    from krun_init.workload import Workload

OWN_GROUP, OWN_SESSION, SAME_SESSION = range(3)  # as _linux.spawn has them


def spawn(program: Workload, streams: tuple[int, int, int], session: int, terminal: int) -> int | Ending:
    """Execute the program in a child: the pid, or why not.

    :raise InitError: a step before the execution failed.
    """
    return _start(_linux.spawn, program, streams, session, terminal)


def become(program: Workload, streams: tuple[int, int, int], heir: Callable[[], None] | None = None) -> int | Ending:
    """Execute the program in this process (KRUN_INIT_PID1); returns only when that fails.

    :param heir: goes on here in our place, in a child (`_linux.execute`).
    :raise InitError: a step before the execution failed.
    """
    return _start(_linux.execute, program, streams, SAME_SESSION, -1, heir=heir)


def _start(
    function: Callable[..., int],
    program: Workload,
    streams: tuple[int, int, int],
    session: int,
    terminal: int,
    **more: Callable[[], None] | None,
) -> int | Ending:
    user = program.user
    try:
        return function(
            workload.candidates(program.argv[0], program.path),
            program.argv,
            program.env,
            streams=streams,
            session=session,
            terminal=terminal,
            rlimits=program.rlimits,
            groups=None if user is None else user.groups,
            uid=-1 if user is None else user.uid,
            gid=-1 if user is None else user.gid,
            umask=-1 if user is None else user.umask,
            capabilities=program.capabilities,
            no_new_privs=program.no_new_privs,
            **more,
        )
    except OSError as error:
        if error.filename == "execute":
            return workload.not_executed(program, error)
        step = error.filename if error.filename2 is None else rlimits.describe(program.rlimits[error.filename2])
        raise workload.not_started(program, step, error) from None
