"""What `pykrun fs` and `pykrun mount` have in common: the share and how it is served."""

from __future__ import annotations

import argparse
from typing import Literal, TypedDict

from pykrun.cli import values
from pykrun.cli.entries import add_entry_arguments, collect_entries
from pykrun.errors import UsageError
from pykrun.host import limits
from pykrun.root import Root
from pykrun.share import Share, find_directory

MANY = 1 << 20
"""Descriptors that a server may have open, as far as the host allows."""


def add_share_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is shared, and how a directory of the host is shown."""
    group = parser.add_argument_group("what is shared")
    group.add_argument("--shared-dir", metavar="DIR", help="a directory of the host, with all below it")
    group.add_argument("--null", action="store_true", help="nothing of the host but what the next options add")
    add_entry_arguments(group)
    group.add_argument("--readonly", action="store_true", help="refuse every change")
    group = parser.add_argument_group("how the directory is shown")
    group.add_argument(
        "--cache",
        choices=("auto", "always", "never"),
        default="auto",
        help="what may be remembered: for a second, for ever (nobody else changes the directory), nothing (auto)",
    )
    group.add_argument("--writeback", action="store_true", help="writes may be collected: the host sees them late")
    group.add_argument("--allow-direct-io", action="store_true", help="O_DIRECT bypasses the host's page cache too")
    group.add_argument("--xattr", action="store_true", default=True, help="show extended attributes (so by default)")
    group.add_argument("--no-xattr", dest="xattr", action="store_false", help="show none")
    group.add_argument("--xattrmap", metavar="RULES", help="change their names on the way, as :map::user.guest.:")
    group.add_argument(
        "--posix-acl",
        nargs="?",
        choices=("never", "auto", "always"),
        const="always",
        default="never",
        help="POSIX ACLs; auto and always are the same (never)",
    )
    group.add_argument(
        "--announce-submounts",
        action="store_true",
        default=True,
        help="say where other file systems of the host begin (so by default)",
    )
    group.add_argument("--no-announce-submounts", dest="announce_submounts", action="store_false", help="do not")


def add_serving_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how it is served."""
    group = parser.add_argument_group("the server")
    group.add_argument(
        "--sandbox",
        choices=("auto", "require", "namespace", "none"),
        default="auto",
        help="isolate what serves as far as it can be, or not at all; require, namespace: or refuse to serve (auto)",
    )
    group.add_argument("--rlimit-nofile", metavar="N", help="descriptors it may have open (what the host allows)")
    group.add_argument("--stats", action="store_true", help="say at the end how often each operation came")
    group.add_argument(
        "--log-level",
        choices=("off", "error", "warn", "info", "debug", "trace"),
        default="info",
        help="what is said on standard error (info)",
    )


class Serving(TypedDict):
    """How it is served, as `pykrun.fileserver` takes it."""

    sandbox: Literal["auto", "require", "none"]
    stats: bool


def serving(arguments: argparse.Namespace) -> Serving:
    """Read how it is served, and set this process' limits."""
    limit = arguments.rlimit_nofile
    limits.allow_descriptors(MANY if limit is None else values.positive("--rlimit-nofile", limit))
    limits.forbid_core_file()
    # virtiofsd's word for what it cannot do without
    return Serving(sandbox="require" if arguments.sandbox == "namespace" else arguments.sandbox, stats=arguments.stats)


def share(arguments: argparse.Namespace, *, owner: tuple[int, int] = (0, 0)) -> Share:
    """Read what is shared.

    :param owner: of the virtual entries.
    :raise UsageError: nothing is, or an entry cannot be.
    """
    if (arguments.shared_dir is None) != arguments.null:
        raise UsageError(
            "either --shared-dir or --null says what is shared",
            "--null shares nothing of the host but what --file and its like add",
        )
    root = collect_entries(arguments, Root(bare=True, below=arguments.shared_dir))
    if arguments.null:
        return Share(root=root, read_only=arguments.readonly, owner=owner)
    from pykrun.cli import xattrmap
    from pykrun.fs.passthrough import Options

    options = Options(
        cache=arguments.cache,
        writeback=arguments.writeback,
        direct_io=arguments.allow_direct_io,
        xattr=arguments.xattr or arguments.posix_acl != "never",
        xattr_map=None if arguments.xattrmap is None else xattrmap.parse(arguments.xattrmap),
        posix_acl=arguments.posix_acl != "never",
        submounts=arguments.announce_submounts,
    )
    folder, identity = find_directory("--shared-dir", arguments.shared_dir)
    return Share(
        root=root, folder=folder, identity=identity, options=options, read_only=arguments.readonly, owner=owner
    )
