"""The file server on its own: a share on a vhost-user socket, or mounted on the host.

Three processes at most: the keeper, which the user started and which touches the outside; the one that serves, which
touches the share; and for a mount the guardian, which unmounts when the keeper dies.
"""

from pykrun.fileserver.daemon import Daemon
from pykrun.fileserver.host_mount import MountedShare
from pykrun.fileserver.log import LEVELS, Log
from pykrun.fileserver.mounting import MountOptions, parse_options

__all__ = ["LEVELS", "Daemon", "Log", "MountOptions", "MountedShare", "parse_options"]
