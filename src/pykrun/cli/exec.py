"""`pykrun exec`: one more command in a VM that runs."""

from __future__ import annotations

import os

from pykrun.cli.environment import environment
from pykrun.errors import UsageError
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

EPILOG = """COMMAND runs beside the VM's own, in the same root, with its environment, user and limits where nothing
else is said. Its standard streams are this command's. Exit status: COMMAND's; 128+n for a signal (137 too when the
VM ends first); 125 it could not be run (with the reason), 126 not executable, 127 not found.

examples:
  pykrun exec web -- nginx -s reload
  pykrun exec -t web /bin/sh
  pykrun exec --rlimit nofile=64:64 web -- ./worker
  pykrun exec web -e LANG=C -w /var/log -- tail -f access.log
  tar c src | pykrun exec web -- tar x -C /srv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "pykrun exec [OPTION...] VM [OPTION...] [--] COMMAND [ARG...]"
    parser.add_argument("vm", metavar="VM", help="its name, as `pykrun ps` shows it")
    parser.add_argument("-t", "--tty", action="store_true", default=None, help="give it a terminal")
    parser.add_argument("-T", "--no-tty", dest="tty", action="store_false", help="give it pipes")
    parser.add_argument("-i", "--interactive", action="store_true", help="standard input is forwarded anyway")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="K=V", help="a variable; K alone copies ours"
    )
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="lines of K=V")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="working directory in the guest (the workload's)")
    parser.add_argument(
        "-u", "--user", metavar="USER[:GROUP]", help="names that the guest knows, or numbers (the workload's)"
    )
    parser.add_argument(
        "--rlimit", action="append", default=[], metavar="NAME=CUR:MAX", help="a resource limit (the workload's)"
    )
    parser.set_defaults(command=[])


def split_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split options and the VM's name, in any order, from the command."""
    actions = parser._option_string_actions
    options: list[str] = []
    names = 0
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return options, list(words[index + 1 :])
        if word.startswith("-") and word != "-":
            action = actions.get(word)
            taken = 2 if action is not None and action.nargs is None else 1
            if action is not None and list(words[index + 1 : index + taken]) == ["--"]:
                from pykrun.cli.dispatch import value_missing

                raise value_missing(action)
        elif names:
            break
        else:
            names, taken = 1, 1
        options += words[index : index + taken]
        index += taken
    return options, list(words[index:])


@record(slots=True, kw_only=True)
class Wanted:
    """What the words of a call say, by the names that argparse has for them."""

    vm: str
    command: list[str]
    tty: bool | None = None
    env: list[str]
    env_file: list[str]
    workdir: str | None = None
    user: str | None = None
    rlimit: list[str]


_SHORT = {"-t": "--tty", "-T": "--no-tty", "-i": "--interactive", "-e": "--env", "-w": "--workdir", "-u": "--user"}
_LISTS = ("--env", "--env-file", "--rlimit")
_VALUES = (*_LISTS, "--workdir", "--user")


def read(words: Sequence[str]) -> Wanted | None:
    """Read a call without argparse, whose import takes a quarter of it; None for one that is not quite usual."""
    wanted = Wanted(vm="", command=[], env=[], env_file=[], rlimit=[])
    rest = list(words)
    while rest and rest[0] != "--" and (rest[0][:1] == "-" or not wanted.vm):
        option = _SHORT.get(rest[0], rest.pop(0))
        if option in _VALUES and rest and rest[0][:1] != "-":
            value = rest.pop(0)
            if option in _LISTS:
                getattr(wanted, option[2:].replace("-", "_")).append(value)
            else:
                setattr(wanted, option[2:], value)
        elif option in ("--tty", "--no-tty"):
            wanted.tty = option == "--tty"
        elif option[:1] != "-":
            wanted.vm = option
        elif option != "--interactive":
            return None
    wanted.command = rest[1:] if rest[:1] == ["--"] else rest
    return wanted if wanted.vm and wanted.command else None


def run_quickly(words: Sequence[str]) -> int | None:
    """Run a usual call, and return its exit status; None for another one."""
    from pykrun.cli.failing import SET_UP_FAILED, Manner, guarded

    wanted = read(words)
    return None if wanted is None else guarded(lambda: run(wanted), Manner(SET_UP_FAILED))


def run(arguments: argparse.Namespace | Wanted) -> int:
    """Run the command; return its exit status."""
    from pykrun import vms
    from pykrun.cli.attached import Attached
    from pykrun.cli.streams import standard_stream
    from pykrun.vms.process import describe

    if not arguments.command or not arguments.command[0]:
        raise UsageError("there is no command", "pykrun exec VM -- COMMAND")
    streams = [standard_stream(number) for number in range(3)]
    is_terminal = all(stream is not None and os.isatty(stream) for stream in streams[:2])
    terminal = is_terminal if arguments.tty is None else arguments.tty
    variables = environment(arguments.env, arguments.env_file)
    if terminal and "TERM" in os.environ:
        variables.setdefault("TERM", os.environ["TERM"])
    limits = []
    if arguments.rlimit:  # its module is one more to import
        from pykrun.cli.values import rlimit

        limits = [rlimit(text) for text in arguments.rlimit]
    with Attached(streams, terminal=terminal) as attached:
        process = describe(
            arguments.command,
            environment=variables,
            workdir=arguments.workdir,
            user=arguments.user,
            rlimits=limits,
            terminal=terminal,
            window=attached.window,
        )
        return attached.run(vms.connect(arguments.vm), process)
