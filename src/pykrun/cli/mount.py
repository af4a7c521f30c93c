"""`pykrun mount`: the same file system, mounted on this host."""

from __future__ import annotations

import argparse
import os

from pykrun.cli import shares

EPILOG = """\
It stays in the foreground until the file system is unmounted, or unmounts it on SIGTERM or Ctrl-C, lazily where
somebody still uses it. "mounted on" on standard error (READY=1 for systemd) says that it can be used. Root mounts by
itself; others through fusermount3, and then nobody else may enter unless -o allow_other is allowed in /etc/fuse.conf.
SIGUSR1 shows how often each operation came.

examples:
  pykrun mount /mnt --shared-dir /srv/data --readonly
  pykrun mount /mnt --shared-dir . --file /etc/motd=./motd
  pykrun mount ~/secrets --null --secret /key=./key.pem
  pykrun mount /srv/view --null --file /motd=/etc/motd --dir /data -o noexec,fsname=view
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "pykrun mount MOUNTPOINT (--shared-dir DIR | --null) [OPTION...]"
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an existing directory")
    shares.add_share_arguments(parser)
    parser.add_argument(
        "-o",
        action="append",
        default=[],
        dest="options",
        metavar="OPTION,...",
        help="allow_other, fsname=NAME, ro, noexec, noatime and their like, as mount(8) has them",
    )
    shares.add_serving_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Mount and serve; return the exit status."""
    from pykrun.fileserver.host_mount import MountedShare
    from pykrun.fileserver.log import Log
    from pykrun.fileserver.mounting import parse_options

    options = parse_options(arguments.options, read_only=arguments.readonly)
    serving = shares.serving(arguments)
    share = shares.share(arguments, owner=(os.geteuid(), os.getegid()))
    log = Log(arguments.log_level)
    return MountedShare(share, log, arguments.mountpoint, options, **serving).run()
