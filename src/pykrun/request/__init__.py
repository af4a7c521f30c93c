"""What somebody wants run, and what came of it, as plain values.

They can be checked, shown, compared, and sent to the process that runs it.
"""

from pykrun.request.outcome import Outcome
from pykrun.request.records import (
    Console,
    Descriptor,
    DiskImage,
    Entry,
    Place,
    Port,
    Request,
    Serial,
    Tree,
    Volume,
)

__all__ = [
    "Console",
    "Descriptor",
    "DiskImage",
    "Entry",
    "Outcome",
    "Place",
    "Port",
    "Request",
    "Serial",
    "Tree",
    "Volume",
]
