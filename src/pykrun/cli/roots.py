"""The options of `pykrun run` for its root: a directory, an image, virtual entries, volumes, a writable layer."""

from __future__ import annotations

import argparse
import os

from pykrun.cli import values
from pykrun.cli.entries import add_entry_arguments, collect_entries
from pykrun.errors import UsageError
from pykrun.host.numbers import MACHINE
from pykrun.machine import LAYER_TAG
from pykrun.record import field, record
from pykrun.root import INIT_PATH, Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.image import Image
    from pykrun.share import Share
    from pykrun.supervisor import Volume

MEMORY = "memory"
"""The value of --writable that is no directory."""


def add_root_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare what the root is made of."""
    group.add_argument("--root", metavar="DIR", help="share a directory of this host as / (nothing of the host)")
    group.add_argument(
        "--image",
        metavar="REF",
        help="boot into a container image: an OCI layout's folder, an archive, or a name to pull (skopeo)",
    )
    group.add_argument("--entrypoint", metavar="CMD", help="execute CMD in place of the image's entrypoint")
    group.add_argument("--read-only", action="store_true", help="refuse every change in it")
    group.add_argument(
        "--writable",
        metavar="memory|DIR",
        help="lay a writable layer over the root: forgotten at the end, or kept in a directory of this host",
    )
    add_entry_arguments(group)
    group.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="HOST:GUEST[:ro]",
        help="share one more directory of this host",
    )
    group.add_argument(
        "--cache",
        choices=("auto", "always", "never"),
        default="auto",
        help="what the guest may remember of shared directories: for a second, for ever, nothing (auto)",
    )


@record(slots=True, kw_only=True)
class Composed:
    """What the options make of the root.

    :param layer: what the start data are to say of a writable layer; None for none.
    :param holds: descriptors that keep others away until the VM has ended.
    """

    root: Root
    share: Share | None = None
    volumes: tuple[Volume, ...] = ()
    layer: str | None = None
    image: Image | None = None
    holds: list[int] = field(default_factory=list)


def compose(arguments: argparse.Namespace) -> Composed:
    """Put the root together.

    :raise UsageError: options contradict each other, or name what is not there.
    :raise MissingError: an image needs a program that is not there.
    """
    _check(arguments)
    image = _image(arguments)
    below = arguments.root
    composed = Composed(root=Root(), image=image)
    if image is not None:
        below = os.fspath(image.tree)
        composed.holds.append(image.hold())
    if below is not None or arguments.volume or arguments.writable is not None:
        _share(arguments, composed, below)
    collect_entries(arguments, composed.root)
    if composed.layer is not None and INIT_PATH in composed.root.files:
        raise UsageError("a writable layer is made by pykrun's own init", "leave out --writable, or /init.krun")
    return composed


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if arguments.image is not None:
        for other in ("root", "root_disk"):
            if getattr(arguments, other) is not None:
                raise UsageError(f"--image and --{other.replace('_', '-')} are two roots; a machine has one")
    elif arguments.entrypoint is not None:
        raise UsageError("--entrypoint is for an --image", "without one, name the program as COMMAND")
    elif arguments.read_only and arguments.root is None:
        raise UsageError("--read-only is for --root DIR", "virtual files are read-only as they are; volumes have :ro")
    if arguments.writable is not None and arguments.root_disk is not None:
        raise UsageError("--writable is for a shared root", "a disk is writable as it is; qcow2 images have overlays")


def _image(arguments: argparse.Namespace) -> Image | None:
    if arguments.image is None:
        return None
    from pykrun.image import open_image

    return open_image(arguments.image, arch=_architecture(arguments))


def _architecture(arguments: argparse.Namespace) -> str:
    """The guest's machine: what was asked for, what the kernel is for, or this one."""
    if arguments.arch:
        return str(arguments.arch)
    if arguments.kernel:
        from pathlib import Path

        from pykrun.kernel import for_image

        return for_image(Path(arguments.kernel)).arch
    return MACHINE


def _share(arguments: argparse.Namespace, composed: Composed, below: str | None) -> None:
    """The directory below the root, the volumes, and the writable layer."""
    from pykrun.share import Share, find_directory
    from pykrun.supervisor import Volume

    where = arguments.writable
    if where is None and composed.image is not None and not arguments.read_only:
        where = MEMORY
    cache = arguments.cache
    root = composed.root = Root(below=below)
    if below is not None:
        folder, identity = find_directory("--root", below)
        composed.share = Share(
            root=root,
            folder=folder,
            identity=identity,
            cache=cache if composed.image is None else "always",
            submounts=where is None,
            read_only=arguments.read_only or composed.image is not None or arguments.writable is not None,
        )
    volumes = []
    for text in arguments.volume:
        host, guest, read_only = values.volume(text)
        folder, identity = find_directory("--volume", host)
        root.mount_point(guest)
        one = Share(root=Root(bare=True), folder=folder, identity=identity, cache=cache, read_only=read_only)
        volumes.append(Volume(where=os.fsencode(guest), share=one))
    composed.volumes = tuple(volumes)
    if where == MEMORY:
        composed.layer = ""
    elif where is not None:
        _keep(composed, where)


def _keep(composed: Composed, where: str) -> None:
    """A layer that is kept."""
    from pykrun.supervisor import keep_layer

    base = "nothing" if composed.share is None else f"the directory {composed.share.folder}"
    volume, hold = keep_layer(
        "--writable", where, base if composed.image is None else f"the image {composed.image.chain}"
    )
    composed.holds.append(hold)
    composed.volumes = (*composed.volumes, volume)
    composed.layer = LAYER_TAG
