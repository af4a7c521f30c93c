"""What `pykrun fs` and `pykrun mount` have in common: the share and how it is served."""

from __future__ import annotations

import argparse

from pykrun.cli import values
from pykrun.cli.entries import add_entry_arguments, collect_entries
from pykrun.errors import UsageError
from pykrun.root import Root
from pykrun.share import Share

MANY = 1 << 20
"""Descriptors that a server may have open, as far as the host allows: each known inode of a host directory is one."""


def add_share_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is shared."""
    group = parser.add_argument_group("what is shared")
    group.add_argument("--null", action="store_true", help="no directory of the host: only what the next options add")
    add_entry_arguments(group)
    group.add_argument("--readonly", action="store_true", help="refuse every change")


def add_serving_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how it is served."""
    group = parser.add_argument_group("the server")
    group.add_argument("--stats", action="store_true", help="say at the end how often each operation came")
    group.add_argument(
        "--log-level",
        choices=("off", "error", "warn", "info", "debug", "trace"),
        default="info",
        help="what is said on standard error (info)",
    )


def share(arguments: argparse.Namespace, *, owner: tuple[int, int] = (0, 0)) -> Share:
    """Read what is shared.

    :param owner: of the virtual entries.
    :raise UsageError: nothing is, or an entry cannot be.
    """
    if not arguments.null:
        raise UsageError("nothing is shared", "--null shares nothing of the host but what --file and its like add")
    values.allow_descriptors(MANY)
    values.forbid_core_file()
    root = collect_entries(arguments, Root(bare=True))
    return Share(root=root, read_only=arguments.readonly, owner=owner)
