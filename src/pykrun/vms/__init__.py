"""The VMs of this user: their names, their folders in the runtime directory, and the way to their doors."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.vms.client import Client, connect
    from pykrun.vms.directory import runtime_path
    from pykrun.vms.names import check_name, make_name
    from pykrun.vms.registry import Entry, Listed, check_free, listed, register
    from pykrun.vms.wire import Channel, Message

_HOMES = {
    **dict.fromkeys(("Client", "connect"), "client"),
    "runtime_path": "directory",
    **dict.fromkeys(("check_name", "make_name"), "names"),
    **dict.fromkeys(("Entry", "Listed", "check_free", "listed", "register"), "registry"),
    **dict.fromkeys(("Channel", "Message"), "wire"),
}
"""Where the names are, which are imported when they are asked for: most VMs are listed, and nobody comes."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pykrun.vms' has no attribute {name!r}")
    __import__(f"pykrun.vms.{_HOMES[name]}")
    return getattr(globals()[_HOMES[name]], name)


__all__ = [
    "Channel",
    "Client",
    "Entry",
    "Listed",
    "Message",
    "check_free",
    "check_name",
    "connect",
    "listed",
    "make_name",
    "register",
    "runtime_path",
]
