"""The host's half of a guest's network: passt, the stream of frames to it, and what may leave the guest.

`passt` starts the process that turns a guest's packets into this host's sockets, `FrameStream` is the cable from a
network device to it, `Publish` some ports of this host that lead into the guest. docs/network.md draws the picture.
`pykrun.net.link` is for cards that are plugged into something else: only machines that have one import it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.net import passt
    from pykrun.net.border import Border
    from pykrun.net.publish import DEFAULT_ADDRESS, Publish, check_all, parse
    from pykrun.net.stream import FrameStream, make_pair
    from pykrun.net.surroundings import look

_HOMES = {
    "Border": "border",
    **dict.fromkeys(("DEFAULT_ADDRESS", "Publish", "check_all", "parse"), "publish"),
    **dict.fromkeys(("FrameStream", "make_pair"), "stream"),
    "look": "surroundings",
    "passt": "passt",
}
"""Where the names are, which are imported when they are asked for: a card with a link needs no passt."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pykrun.net' has no attribute {name!r}")
    __import__(f"pykrun.net.{_HOMES[name]}")
    module = globals()[_HOMES[name]]
    return module if name == "passt" else getattr(module, name)


__all__ = ["DEFAULT_ADDRESS", "Border", "FrameStream", "Publish", "check_all", "look", "make_pair", "parse", "passt"]
