"""A further command as the host describes it: OCI's `process`, and whatever that leaves open is the workload's own."""

from __future__ import annotations

from krun_init import accounts, checks, config, environment, jsonload, rlimits
from krun_init.errors import InitError
from krun_init.workload import Workload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.checks import Fields
    from krun_init.log import Log
    from krun_init.user import User

_WHERE = "process"
_LARGEST_WINDOW = 65535


class Execution:
    """What to execute, where, and whether on a terminal, whose window has so many rows and columns."""

    __slots__ = ("cwd", "program", "terminal", "window")

    def __init__(self, program: Workload, cwd: str | None, terminal: bool, window: tuple[int, int] | None) -> None:
        self.program = program
        self.cwd = cwd
        self.terminal = terminal
        self.window = window


def parse(description: bytes, workload: Workload, log: Log) -> Execution:
    """Check a description and fill it up with what the workload has.

    :raise InitError: says what is wrong with which field.
    """
    try:
        fields = checks.Fields(_WHERE, jsonload.loads(description))
    except ValueError as error:
        raise InitError(f"{_WHERE} is not JSON: {error}") from None
    asked = config.Config()
    argv = config.take_process(asked, fields, log)
    if not argv:
        raise InitError(f"{fields.label('args')} must name a program")
    user, home = _user(fields, asked.user, workload.user)
    variables = _environment(fields, asked.env, home, workload)
    accounts.fill_home(variables, user)
    program = Workload(argv, variables, user)
    own = {resource: (soft, hard) for resource, soft, hard in workload.rlimits}
    program.rlimits = rlimits.merge(own, asked.rlimits)
    program.capabilities = asked.capabilities if "capabilities" in fields else workload.capabilities
    program.no_new_privs = asked.no_new_privs if "noNewPrivileges" in fields else workload.no_new_privs
    return Execution(program, asked.workdir, asked.terminal, _window(fields))


def _user(fields: Fields, asked: User | None, own: User | None) -> tuple[User | None, str | None]:
    """The user and, if it was looked up by name, its home directory."""
    described = fields.child("user")
    if described is None or asked is None:
        return own, None
    home = None
    name = described.text("username")
    if name:
        umask, further = asked.umask, asked.groups
        asked, home = accounts.look_up(name)
        asked.umask = umask
        asked.groups += further
    if asked.umask < 0 and own is not None:
        asked.umask = own.umask
    return asked, home


def _environment(fields: Fields, asked: list[tuple[str, str]], home: str | None, workload: Workload) -> dict[str, str]:
    variables: dict[str, str] = {}
    if "env" not in fields or fields.flag("inherit_env"):
        variables.update(checks.pair("", word) for word in workload.env)
    if home is not None:
        variables["HOME"] = home
    variables.update(asked)
    variables.setdefault("PATH", environment.PATH)
    return variables


def _window(fields: Fields) -> tuple[int, int] | None:
    size = fields.child("consoleSize")
    if size is None:
        return None
    return size.number("height", 0, _LARGEST_WINDOW) or 0, size.number("width", 0, _LARGEST_WINDOW) or 0
