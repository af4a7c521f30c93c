"""The host's half of a guest's network: passt, the stream of frames to it, and what may leave the guest.

`passt` starts the process that turns a guest's packets into this host's sockets, `FrameStream` is the cable from a
network device to it, `Publish` some ports of this host that lead into the guest. docs/network.md draws the picture.
"""

from pykrun.net import passt
from pykrun.net.publish import Publish, check_all, parse
from pykrun.net.stream import FrameStream, make_pair

__all__ = ["FrameStream", "Publish", "check_all", "make_pair", "parse", "passt"]
