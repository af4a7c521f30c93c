"""`pykrun fs`: the vhost-user daemon on its own, in the words of virtiofsd."""

from __future__ import annotations

import argparse

from pykrun.cli import shares, values
from pykrun.errors import UsageError

EPILOG = """\
It waits for a front end, serves it, and waits for the next one, until SIGTERM or Ctrl-C. There is one front end at
a time; a second one is refused, with a message. SIGUSR1 shows how often each operation came.

examples:
  pykrun fs --socket-path /run/vm1-fs.sock --shared-dir /srv/data
  qemu-system-x86_64 ... -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem \\
      -chardev socket,id=fs,path=/run/vm1-fs.sock -device vhost-user-fs-pci,chardev=fs,tag=data,queue-size=1024
  cloud-hypervisor ... --memory size=1G,shared=on --fs tag=data,socket=/run/vm1-fs.sock
  pykrun fs --socket-path fs.sock --tag data --null --file /etc/motd=./motd --secret /key=./key.pem
  linux.uml ... virtio_uml.device=fs.sock:26
  and in the guest: mount -t virtiofs data /mnt
"""

_CAPABILITIES = """{
  "type": "fs",
  "features": [
    "separate-options"
  ]
}"""
"""The back end program's capabilities, as QEMU's docs/interop/vhost-user.json and libvirt know them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "pykrun fs --socket-path SOCK (--shared-dir DIR | --null) [OPTION...]"
    shares.add_share_arguments(parser)
    door = parser.add_argument_group("the socket")
    door.add_argument("--socket-path", metavar="SOCK", help="where to listen; a dead server's socket is replaced")
    door.add_argument("--socket-group", metavar="GROUP", help="who may connect beside the user (then 0660, else 0600)")
    door.add_argument("--fd", metavar="FDNUM", help="a listening socket (or a connected one) that is open already")
    door.add_argument("--tag", metavar="T", help="the name to mount, for front ends that ask: UML, crosvm (pykrun)")
    door.add_argument("--once", action="store_true", help="end when the front end disconnects, as virtiofsd does")
    door.add_argument("--print-capabilities", action="store_true", help="say in JSON what this program is, and end")
    shares.add_serving_arguments(parser)
    same = parser.add_argument_group("taken from virtiofsd, without effect")
    same.add_argument("--thread-pool-size", metavar="N", help="there is one thread")
    same.add_argument(
        "--inode-file-handles",
        choices=("never", "prefer"),
        help="inodes are found by name and number, and need neither handles nor open descriptors",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve; return the exit status."""
    if arguments.print_capabilities:
        print(_CAPABILITIES)
        return 0
    door = _door(arguments)
    tag = _tag(arguments.tag)
    serving = shares.serving(arguments)
    share = shares.share(arguments)
    from pykrun.fileserver.daemon import Daemon
    from pykrun.fileserver.log import Log

    log = Log(arguments.log_level)
    return Daemon(share, log, tag=tag, door=door, once=arguments.once, **serving).run()


def _door(arguments: argparse.Namespace) -> tuple[str, str | None] | int:
    if (arguments.socket_path is None) == (arguments.fd is None):
        raise UsageError("either --socket-path or --fd says where front ends come from")
    if arguments.fd is None:
        return arguments.socket_path, arguments.socket_group
    if arguments.socket_group is not None:
        raise UsageError("--socket-group is for --socket-path: the socket of --fd is somebody else's")
    return values.descriptor("--fd", arguments.fd)


def _tag(text: str | None) -> str:
    tag = "pykrun" if text is None else text
    if not 1 <= len(tag.encode("utf-8", "surrogateescape")) <= 36 or "\0" in tag:
        raise UsageError(f"--tag wants 1 to 36 bytes, not {tag!r}")
    return tag
