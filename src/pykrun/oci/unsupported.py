"""Verbs of runc that a VM of ours cannot do: the exact error."""

from __future__ import annotations

from pykrun.errors import UsageError
from pykrun.oci.options import Given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Never

OPTIONS = {"checkpoint": ("", None), "restore": ("", None)}
"""Whatever follows the verb is not looked at."""


def checkpoint(_root: str, _settings: Given, _options: Given) -> Never:
    """Refuse."""
    raise UsageError("checkpoint is not supported: the memory of a VM cannot be saved")


def restore(_root: str, _settings: Given, _options: Given) -> Never:
    """Refuse."""
    raise UsageError("restore is not supported: the memory of a VM cannot be saved")
