"""The VMs of this user: their names, their folders in the runtime directory, and the way to their doors."""

from pykrun.vms.client import Client, connect
from pykrun.vms.directory import runtime_path
from pykrun.vms.names import check_name, make_name
from pykrun.vms.registry import Entry, Listed, check_free, listed, register
from pykrun.vms.wire import Channel, Message

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
