"""The public API's parts; `pykrun` and `pykrun.aio` are their doors."""

from pykrun.api.microvm import MicroVM, run
from pykrun.api.options import Options
from pykrun.api.result import Result
from pykrun.api.root import Root

__all__ = ["MicroVM", "Options", "Result", "Root", "run"]
