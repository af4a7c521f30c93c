"""From words to a subcommand."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence

from pykrun.cli import COMMANDS
from pykrun.cli.failing import FAILED, SET_UP_FAILED, Manner, guarded
from pykrun.errors import UsageError
from pykrun.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

EPILOG = """examples:
  pykrun run --file /hello=./hello-static -- /hello world
  pykrun run --file /bin/sh=/bin/busybox -- /bin/sh
  pykrun run --name web --root ./app -- /server
  pykrun exec web -- /bin/ps
  pykrun doctor

`pykrun COMMAND --help` tells more."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Is told the width: to find it, argparse imports shutil and with it every compressor, 5 ms, help or not."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"width": _columns() - 2, **options})


def _columns() -> int:
    """How wide the terminal is: what COLUMNS says, standard output itself, or 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


# Its words are not translated: looking for that would import locale, before every run.
argparse._ = str  # type: ignore[attr-defined]  # argparse's own name for gettext


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises `UsageError` instead of ending the process."""

    def check_options(self, words: Iterable[str]) -> None:
        """Refuse an option that is not there, before anything else is found missing.

        :raise UsageError: there is one; the hint names the one that is like it.
        """
        for word in words:
            option = word.split("=")[0]
            if word == "--":
                break
            if option.startswith("--") and option not in self._option_string_actions:
                hint = advice(option, self._option_string_actions) or f"see `{self.prog} --help`"
                raise UsageError(f"there is no option {option}", hint)

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse says NoReturn; raising is that too
        """Turn argparse's complaint into ours."""
        name, _, complaint = message.removeprefix("argument ").partition(": ")
        action = self._option_string_actions.get(name.rpartition("/")[2])
        if action is not None and complaint == "expected one argument":
            raise value_missing(action)
        raise UsageError(message.replace("unrecognized arguments:", "not understood:"), f"see `{self.prog} --help`")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after --help, with what was printed out of the buffer: at exit a closed pipe would be a complaint."""
        if sys.stdout is not None:
            sys.stdout.flush()
        super().exit(status, message)


def value_missing(action: argparse.Action) -> UsageError:
    """The error for an option that stands without its value."""
    what = action.metavar if isinstance(action.metavar, str) else ", ".join(map(str, action.choices or ()))
    return UsageError(f"{action.option_strings[-1]} wants a value" + (f": {what}" if what else ""))


def advice(word: str, known: Iterable[str]) -> str:
    """Return the question whether one of the known words was meant; empty when none is like it."""
    from difflib import get_close_matches  # only on the way to an error

    names = {one.lstrip("-"): one for one in known}  # their dashes would make any two options alike
    found = get_close_matches(word.lstrip("-"), names, n=1, cutoff=0.6)
    return f"did you mean {names[found[0]]}?" if found else ""


def dispatch(words: Sequence[str]) -> int:
    """Run the subcommand that `words` name; return the exit status."""
    manner = Manner()
    return guarded(lambda: _dispatch(words, manner), manner)


def _dispatch(words: Sequence[str], manner: Manner) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _overview(words[1:])
        return 0
    if words[0] in ("-V", "--version"):
        print(f"pykrun {VERSION}")
        return 0
    name, rest = words[0], list(words[1:])
    if name.startswith("-"):
        raise UsageError(f"{name} comes after the command", f"as in `pykrun run {name}`; see `pykrun --help`")
    if name not in COMMANDS:
        usual = f"commands: {', '.join(COMMANDS)}; see `pykrun --help`"
        raise UsageError(f"there is no command {name!r}", advice(name, COMMANDS) or usual)
    manner.status = SET_UP_FAILED if name in ("run", "exec") else FAILED
    module = importlib.import_module(f"pykrun.cli.{name}")
    parser = Parser(
        prog=f"pykrun {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        formatter_class=_Formatter,
        epilog=getattr(module, "EPILOG", None),
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    split = getattr(module, "split_words", None)
    command: list[str] | None = None
    if split is not None:
        rest, command = split(parser, rest)
    manner.debug = "--debug" in rest
    parser.check_options(rest)
    arguments = parser.parse_args(rest)
    if command is not None:
        arguments.command = command
    status = module.run(arguments)
    return int(status)


def _overview(words: Sequence[str]) -> None:
    if words and words[0] in COMMANDS:
        dispatch([words[0], "--help"])
        return
    lines = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
    head = "usage: pykrun COMMAND [OPTION...]\n\nRun a command in a real Linux microVM."
    print(f"{head}\n\ncommands:\n{lines}\n\n{EPILOG}", flush=True)
