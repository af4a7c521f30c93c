"""From words to a subcommand, and from errors to one line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence

from pykrun.cli import COMMANDS
from pykrun.errors import PykrunError, UsageError
from pykrun.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

FAILED = 1
USAGE = 2
SET_UP_FAILED = 125
"""`run` and `exec` use the statuses 125 to 127 as env, docker and chroot do; everything below is the command's."""

EPILOG = """examples:
  pykrun run --file /hello=./hello-static -- /hello world
  pykrun run --file /bin/sh=/bin/busybox -- /bin/sh
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
        raise UsageError(message.replace("unrecognized arguments:", "not understood:"), f"see `{self.prog} --help`")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End after --help, with what was printed out of the buffer: at exit a closed pipe would be a complaint."""
        sys.stdout.flush()
        super().exit(status, message)


def advice(word: str, known: Iterable[str]) -> str:
    """Return the question whether one of the known words was meant; empty when none is like it."""
    from difflib import get_close_matches  # only on the way to an error

    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else ""


def dispatch(words: Sequence[str]) -> int:
    """Run the subcommand that `words` name; return the exit status."""
    debug = False
    failed = USAGE
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            _overview(words[1:])
            return 0
        if words[0] in ("-V", "--version"):
            print(f"pykrun {VERSION}")
            return 0
        name, rest = words[0], list(words[1:])
        if name not in COMMANDS:
            usual = f"commands: {', '.join(COMMANDS)}; see `pykrun --help`"
            raise UsageError(f"there is no command {name!r}", advice(name, COMMANDS) or usual)
        failed = SET_UP_FAILED if name in ("run", "exec") else FAILED
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
        debug = "--debug" in rest
        parser.check_options(rest)
        arguments = parser.parse_args(rest)
        if command is not None:
            arguments.command = command
        status = module.run(arguments)
        return int(status)
    except PykrunError as error:
        _complain(str(error), traceback=debug)
        return failed if failed == SET_UP_FAILED or not isinstance(error, UsageError) else USAGE
    except BrokenPipeError:
        return _broken_pipe()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        name = f": {error.filename!r}" if error.filename else ""
        _complain(f"{error.strerror or error}{name} (--debug tells more)", traceback=debug)
        return failed
    except Exception as error:
        _complain(f"internal error: {error!r} (--debug tells more; please report it)", traceback=debug)
        return failed


def _overview(words: Sequence[str]) -> None:
    if words and words[0] in COMMANDS:
        dispatch([words[0], "--help"])
        return
    lines = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    head = "usage: pykrun COMMAND [OPTION...]\n\nRun a command in a real Linux microVM."
    print(f"{head}\n\ncommands:\n{lines}\n\n{EPILOG}", flush=True)


def _complain(message: str, *, traceback: bool) -> None:
    if traceback:
        from traceback import format_exc

        message = f"{message}\n{format_exc()}"
    try:
        os.write(2, f"pykrun: {message}\n".encode(errors="surrogateescape"))
    except OSError:
        pass


def _broken_pipe() -> int:
    """The reader of our own output went away: not worth a word, and nothing may be flushed at exit."""
    sys.stdout = None  # the interpreter's way to say "no standard output"
    return FAILED
