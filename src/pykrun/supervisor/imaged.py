"""A request's container image and its writable layer: opened, held, and turned into what every request has."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun.errors import UsageError
from pykrun.host.numbers import MACHINE
from pykrun.record import record, replace
from pykrun.request import MEMORY, ImageRoot, Request
from pykrun.root import INIT_PATH, Root
from pykrun.start_data import StartData
from pykrun.supervisor.kept_layer import keep_layer
from pykrun.supervisor.plan import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.image import Image


@record(frozen=True, slots=True, kw_only=True)
class Laid:
    """A writable layer.

    :param volume: where it is kept, None in guest memory.
    :param hold: what keeps others away from it, to be closed when the VM has ended; None in guest memory.
    """

    volume: Volume | None = None
    hold: int | None = None


def open_root(request: Request, kernel: str | None) -> Image | None:
    """Open the image of a request, None if it has none.

    :param kernel: the path of its kernel, None for the engine's own.
    :raise UsageError: there is no such image, or a second root.
    :raise ImageError: it cannot be used.
    :raise MissingError: it takes a program that is not installed.
    """
    asked = request.image
    if asked is None:
        return None
    if request.root.directory is not None or request.start.root_device is not None:
        raise UsageError("an image and another root; a machine has one")
    from pykrun.image import open_image

    arch = request.arch or MACHINE
    if kernel and not request.arch:
        from pykrun.kernel import for_image

        arch = for_image(Path(kernel)).arch
    return open_image(asked.reference, arch=arch)


def with_image(request: Request, asked: ImageRoot, image: Image) -> Request:
    """Return the request with the image's tree as its root, and with what its configuration makes of the command.

    :raise UsageError: the image says of nothing what to execute, or has no such user.
    """
    from pykrun import image as images

    start, config = request.start, image.config
    words = [] if start.program is None else [start.program, *start.arguments]
    line = images.command_line(config, asked.entrypoint, [os.fsdecode(word) for word in words])
    who = images.resolve_user(image.tree, config.user if asked.user is None else asked.user)
    given = {name: os.fsdecode(value) for name, value in start.environment.items()}
    return replace(
        request,
        root=replace(request.root, directory=os.fspath(image.tree), read_only=True, cache="always"),
        start=replace(
            start,
            program=line.program,
            arguments=line.arguments,
            environment=images.environment(config, given, who.home),
            workdir=images.working_directory(config, None if start.workdir is None else os.fsdecode(start.workdir)),
            user=who.user,
        ),
    )


def complete(root: Root, image: Image, start: StartData) -> None:
    """Add what the image lacks to the root that was made of it."""
    from pykrun.image import add_missing

    add_missing(root, image.tree, os.fsdecode(start.workdir or "/"))


def lay(request: Request, root: Root, image: Image | None, folder: str | None) -> Laid:
    """Open the writable layer that the request asks for.

    :param folder: the root's directory.
    :raise UsageError: there cannot be one, or its directory belongs to another root or VM.
    """
    where = request.writable
    if request.start.root_device is not None:
        raise UsageError(
            "a writable layer is for a shared root", "a disk is writable as it is; qcow2 images have overlays"
        )
    if INIT_PATH in root.files:
        raise UsageError("a writable layer is made by pykrun's own init", "leave out the layer, or /init.krun")
    if where is None or where == MEMORY:
        return Laid()
    base = "nothing" if folder is None else f"the directory {folder}"
    volume, hold = keep_layer("writable", where, base if image is None else f"the image {image.chain}")
    return Laid(volume=volume, hold=hold)
