"""What somebody wants run, and what came of it, as plain values.

They can be checked, shown, compared, and sent to the process that runs it.
"""

from pykrun.request.outcome import Outcome
from pykrun.request.records import (
    MEMORY,
    Console,
    Descriptor,
    DiskImage,
    Entry,
    ImageRoot,
    Link,
    Place,
    Port,
    Request,
    Serial,
    Tree,
    Volume,
    Vsock,
)

__all__ = [
    "MEMORY",
    "Console",
    "Descriptor",
    "DiskImage",
    "Entry",
    "ImageRoot",
    "Link",
    "Outcome",
    "Place",
    "Port",
    "Request",
    "Serial",
    "Tree",
    "Volume",
    "Vsock",
]
