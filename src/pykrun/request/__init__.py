"""What somebody wants run, and what came of it, as plain values.

They can be checked, shown, compared, and sent to the process that runs it.
"""

from pykrun.request.outcome import Outcome
from pykrun.request.records import Descriptor, DiskImage, Entry, Place, Request, Tree, Volume

__all__ = ["Descriptor", "DiskImage", "Entry", "Outcome", "Place", "Request", "Tree", "Volume"]
