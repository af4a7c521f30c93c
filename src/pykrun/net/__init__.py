"""The host's half of a guest's network: passt, the stream of frames to it, and what may leave the guest.

`passt` starts the process that turns a guest's packets into this host's sockets, `FrameStream` is the cable from a
network device to it, `Publish` some ports of this host that lead into the guest. docs/network.md draws the picture.
`pykrun.net.link` is for cards that are plugged into something else: only machines that have one import it.
"""

from pykrun.net import passt
from pykrun.net.border import Border
from pykrun.net.publish import DEFAULT_ADDRESS, Publish, check_all, parse
from pykrun.net.stream import FrameStream, make_pair
from pykrun.net.surroundings import look

__all__ = ["DEFAULT_ADDRESS", "Border", "FrameStream", "Publish", "check_all", "look", "make_pair", "parse", "passt"]
