"""The FUSE protocol: wire tables, the server that turns request bytes into reply bytes, and its /dev/fuse transport."""

from pykrun.fuse.server import Server

__all__ = ["Server"]
