"""How the workload starts on FreeBSD: in a forked child that takes the console, or in this very process."""

from __future__ import annotations

import errno

from krun_init import freebsd_console as console
from krun_init import rlimits, workload
from krun_init.errors import SETUP_FAILED, Ending, InitError, describe, reason_of
from krun_init.log import ERROR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.freebsd_system import System
    from krun_init.log import Log
    from krun_init.workload import Workload


def spawn(system: System, program: Workload, log: Log) -> int:
    """Start it in a child; returns the pid.

    What goes wrong in the child, the child says on the console; its exit code is then the one that belongs to it.

    :raise InitError: there is no child.
    """
    try:
        pid = system.fork()
    except OSError as error:
        raise InitError(f"cannot fork: {reason_of(error)}") from None
    if pid == 0:
        code = SETUP_FAILED
        try:
            code = _be_child(system, program, log)
        finally:
            system.exit(code)  # never on into what is init's
    return pid


def become(system: System, program: Workload) -> Ending:
    """Be the workload (KRUN_INIT_PID1), on the console that init has; returns only when that fails.

    :raise InitError: a step before the execution failed.
    """
    for name, step in _STEPS:
        try:
            step(system, program)
        except (OSError, ValueError) as error:
            raise _not_started(program, name, error) from None
    return _execute(system, program)


def _be_child(system: System, program: Workload, log: Log) -> int:
    try:
        if not console.take(system):
            system.setpgid(0, 0)  # a session of its own is a group of its own too
        how = become(system, program)
    except InitError as error:
        how = Ending(SETUP_FAILED, 0, str(error))
    except BaseException as error:
        how = Ending(SETUP_FAILED, 0, describe(error))
    log.line(ERROR, how.reason)
    return how.code


def _set_umask(system: System, program: Workload) -> None:
    if program.user is not None and program.user.umask >= 0:
        system.umask(program.user.umask)


def _set_limits(system: System, program: Workload) -> None:
    for limit in program.rlimits:
        try:
            system.setrlimit(*limit)
        except OSError as error:
            raise workload.not_started(program, rlimits.describe(limit), error) from None


def _change_ids(system: System, program: Workload) -> None:
    """Before FreeBSD 15 the first group of setgroups(2) is the effective one; there it is one more of them."""
    user = program.user
    if user is not None:
        system.setgroups([user.gid, *user.groups])
        system.setresgid(user.gid, user.gid, user.gid)
        system.setresuid(user.uid, user.uid, user.uid)


def _set_no_new_privs(system: System, program: Workload) -> None:
    if program.no_new_privs:
        system.no_new_privs()


def _release_signals(system: System, _program: Workload) -> None:
    system.release_signals()


# Limits may be raised while still privileged; groups go before ids, and nothing is gained any more after them.
_STEPS = (
    ("umask", _set_umask),
    ("rlimits", _set_limits),
    ("user", _change_ids),
    ("noNewPrivileges", _set_no_new_privs),
    ("signals", _release_signals),
)


def _execute(system: System, program: Workload) -> Ending:
    """As execvp(3): what is not there, or not ours to run, does not end the search."""
    environment = dict(word.split("=", 1) for word in program.env)
    failure: OSError = FileNotFoundError(errno.ENOENT, "No such file or directory")
    candidates = workload.candidates(program.argv[0], program.path) if program.argv[0] else []
    for candidate in candidates:
        try:
            system.execve(candidate, program.argv, environment)
        except PermissionError as error:
            failure = error
        except FileNotFoundError:
            pass
        except NotADirectoryError as error:
            if len(candidates) == 1:
                failure = error
        except OSError as error:
            failure = error
            break
    return workload.not_executed(program, failure)


def _not_started(program: Workload, step: str, error: OSError | ValueError) -> InitError:
    if isinstance(error, OSError):
        return workload.not_started(program, step, error)
    return InitError(f"cannot start {program.argv[0]!r}: {step}: {error}")
