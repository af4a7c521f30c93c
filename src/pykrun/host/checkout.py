"""Whether pykrun runs from a checkout, and what is typed there to get what is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SOURCES = Path(__file__).resolve().parents[2]


def setup_program() -> Path | None:
    """Return the absolute path of the checkout's `./setup`, None when this is an installation."""
    program = _SOURCES.parent / "setup"
    is_checkout = _SOURCES.name == "src" and (_SOURCES.parent / "pyproject.toml").is_file()
    return program if is_checkout and program.is_file() and os.access(program, os.X_OK) else None


def command_for(module: str, what: str = "") -> str:
    """Return the command line that does what `python -m module` does: `./setup` in a checkout.

    There the module's sources are on no path of the user's interpreter; `./setup` also installs the packages needed.

    :param module: `pykrun.kernel` or `pykrun.blob`, perhaps with options.
    :param what: the word that makes `./setup` do it, empty when it does so anyway.
    """
    import shlex  # only on the way to an error

    program = setup_program()
    if program is None:  # by the interpreter that has it: that of a virtual environment need not be on PATH
        return f"{shlex.quote(sys.executable or 'python3')} -m {module}"
    return f"{shlex.quote(str(program))} {what}".rstrip()
