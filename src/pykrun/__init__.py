"""pykrun: run a command in a real Linux microVM whose root file system you compose in Python."""

from pykrun.version import VERSION as __version__

__all__ = ["__version__"]
