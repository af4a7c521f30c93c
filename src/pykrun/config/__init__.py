"""A machine described in a TOML file (docs/config.md): read and checked as options of the command line, and written."""

from pykrun.config.lines import find_lines
from pykrun.config.read import Described, read
from pykrun.config.schema import KEYS
from pykrun.config.write import show

__all__ = ["KEYS", "Described", "find_lines", "read", "show"]
"""`KEYS` are the names that a file may have at its top."""
