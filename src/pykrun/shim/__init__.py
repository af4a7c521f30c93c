"""A supervisor in a process of its own: nobody's process is taken over by a VM, and a crash of one touches no other."""

from pykrun.shim.client import Shim
from pykrun.shim.events import Ended, Event, Failed, Named, Reached

__all__ = ["Ended", "Event", "Failed", "Named", "Reached", "Shim"]
