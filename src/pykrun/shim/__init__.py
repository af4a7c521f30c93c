"""A supervisor in a process of its own: nobody's process is taken over by a VM, and a crash of one touches no other."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.shim.client import Shim
    from pykrun.shim.events import Ended, Event, Failed, Named, Reached

_HOMES = {"Shim": "client", **dict.fromkeys(("Ended", "Event", "Failed", "Named", "Reached"), "events")}
"""Where the names are, which are imported when they are asked for: its wire alone is wanted where time is short."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pykrun.shim' has no attribute {name!r}")
    module = __import__(f"pykrun.shim.{_HOMES[name]}", fromlist=[name])
    value: object = getattr(module, name)
    globals()[name] = value
    return value


__all__ = ["Ended", "Event", "Failed", "Named", "Reached", "Shim"]
