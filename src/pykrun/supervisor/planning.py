"""From a request to the supervisor's plan: files and images are opened here."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from pykrun.errors import UsageError
from pykrun.machine import LAYER_TAG, MAX_DISKS, Console, ConsolePort, Disk, Serial, VsockPort, disk_name
from pykrun.record import record, replace
from pykrun.request import Descriptor, DiskImage, Entry, Link, Place, Port, Request, Tree
from pykrun.root import Root
from pykrun.supervisor import imaged
from pykrun.supervisor.plan import Plan, Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.net import Publish
    from pykrun.net import link as network_link
    from pykrun.share import Share

_SECRET_MODE = 0o400


def make_plan(request: Request) -> Plan:
    """Open what the request names.

    :raise UsageError: something of it cannot be.
    """
    with ExitStack() as stack:
        opened = _open(request, stack)
        request = opened.request
        plan = Plan(
            root=opened.root,
            share=opened.share,
            volumes=tuple(opened.volumes),
            holds=tuple(opened.holds),
            stop_signal=opened.stop_signal,
            start=request.start,
            disks=_disks(request.disks, stack),
            engine=request.engine,
            accel=request.accel,
            kernel=_optional(request.kernel),
            firmware=_optional(request.firmware),
            modules=_optional(request.modules),
            arch=request.arch,
            kernel_args=request.kernel_args,
            cpus=request.cpus,
            memory_mib=request.memory_mib,
            network=request.network or bool(request.publish),
            publish=_publish(request.publish),
            timeout=request.timeout,
            sandbox=request.sandbox,
            boot_log=_optional(request.boot_log),
            console=request.console,
            console_output=_optional(request.console_output),
            consoles=tuple(Console(ports=tuple(map(_port, device.ports))) for device in request.consoles),
            serials=tuple(Serial(input=_number(line.input), output=_number(line.output)) for line in request.serials),
            vsock=tuple(
                VsockPort(port=one.port, path=f"{path_of(one.folder)}/{one.name}", listen=one.listen)
                for one in request.vsock
            ),
            links=_links(request.links),
            dhcp=request.dhcp,
            init=request.init,
            initramfs=_optional(request.initramfs),
            command_line=request.command_line,
            oem_strings=request.oem_strings,
            network_optional=request.network_optional,
            escape=request.escape,
            name=request.name,
            stdin=_number(request.stdin),
            stdout=_number(request.stdout),
            stderr=_number(request.stderr),
        )
        stack.pop_all()
        return plan


@record(slots=True, kw_only=True)
class _Opened:
    """The file systems of a request.

    :param request: what an image and a layer make of it.
    """

    request: Request
    root: Root
    share: Share | None
    volumes: list[Volume]
    holds: list[int]
    stop_signal: int = signal.SIGTERM


def _open(request: Request, stack: ExitStack) -> _Opened:
    """Open the root, be it an image's, its writable layer, and the volumes."""
    holds: list[int] = []
    stop_signal: int = signal.SIGTERM
    image = imaged.open_root(request, _optional(request.kernel))
    if image is not None and request.image is not None:
        holds.append(image.hold())
        stack.callback(os.close, holds[0])
        stop_signal = image.config.stop_signal
        request = imaged.with_image(request, request.image, image)
    if request.writable is not None and request.root.directory is not None:
        request = replace(request, root=replace(request.root, read_only=True))
    root, share = _root(request.root, stack)
    volumes = [
        Volume(where=volume.where, tag=volume.tag, share=_share("volume", volume.tree, Root(bare=True), stack))
        for volume in request.volumes
    ]
    for volume in request.volumes:
        if volume.where is not None:
            root.directory(volume.where)
    if image is not None:
        imaged.complete(root, image, request.start)
    if request.writable is not None:
        laid = imaged.lay(request, root, image, None if share is None else share.folder)
        request = replace(request, start=replace(request.start, layer=LAYER_TAG if laid.volume else ""))
        if laid.volume is not None and laid.hold is not None:
            volumes.append(laid.volume)
            holds.append(laid.hold)
            stack.callback(os.close, laid.hold)
    return _Opened(request=request, root=root, share=share, volumes=volumes, holds=holds, stop_signal=stop_signal)


def path_of(place: Place) -> str:
    """Return a path that leads to the place: its name where it still has one, else the way through /proc."""
    if not isinstance(place, Descriptor):
        return os.fsdecode(place)
    own = f"/proc/self/fd/{place.number}"
    try:
        name = os.readlink(own)
        there, here = os.stat(name), os.fstat(place.number)
    except OSError:
        return own
    return name if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) else own


def _optional(place: Place | None) -> str | None:
    return None if place is None else path_of(place)


def _number(stream: Descriptor | None) -> int | None:
    return None if stream is None else stream.number


def _publish(ports: tuple[Publish | str, ...]) -> tuple[Publish, ...]:
    if not ports:
        return ()
    from pykrun.net import parse  # machines without a network do without it

    return tuple(parse(one) if isinstance(one, str) else one for one in ports)


def _links(links: tuple[Link, ...]) -> tuple[network_link.Link, ...]:
    if not links:
        return ()
    from pykrun.net import link as network_link

    return tuple(
        network_link.Link(kind=one.kind, fd=_number(one.end), path=one.tap or None, mac=one.mac, mtu=one.mtu)
        for one in links
    )


def _port(port: Port) -> ConsolePort:
    return ConsolePort(
        name=port.name,
        console=port.console,
        input=_number(port.input),
        output=_number(port.output),
        terminal=port.terminal,
    )


def _root(tree: Tree, stack: ExitStack) -> tuple[Root, Share | None]:
    if tree.directory is None:
        if tree.read_only:
            raise UsageError("a read-only root needs a directory", "virtual files are read-only as they are")
        root = Root()
        stack.callback(root.close)
        return _fill(root, tree), None
    from pykrun.share import find_directory  # its file systems are of use only here

    folder = path_of(tree.directory)
    root = Root(below=find_directory("root", folder)[0])
    share = _share("root", tree, root, stack)
    return root, share


def _share(what: str, tree: Tree, root: Root, stack: ExitStack) -> Share:
    from pykrun.share import Share, find_directory

    stack.callback(root.close)
    if tree.directory is None:
        return Share(root=_fill(root, tree))
    from pykrun.fs.passthrough import CACHES, Options

    if tree.cache not in CACHES:
        raise UsageError(f"cache {tree.cache!r} is not known", f"there are {', '.join(CACHES)}")
    folder, identity = find_directory(what, path_of(tree.directory))
    options = Options(cache=tree.cache)
    share = Share(root=root, folder=folder, identity=identity, options=options, read_only=tree.read_only)
    _fill(root, tree)
    return share


def _fill(root: Root, tree: Tree) -> Root:
    for path, mode in tree.directories:
        root.directory(path, mode=mode)
    for entry in tree.entries:
        _add(root, entry)
    return root


def _add(root: Root, entry: Entry) -> None:
    if (entry.content is None) == (entry.source is None):
        raise UsageError(f"{os.fsdecode(entry.path)} needs a content or a source, one of them")
    if entry.source is not None:
        # By number: the name may be another file's by now, or lead nowhere (a memory file).
        source = entry.source
        name = f"/proc/self/fd/{source.number}" if isinstance(source, Descriptor) else os.fsdecode(source)
        if entry.one_shot:
            root.secret(entry.path, name, mode=_SECRET_MODE if entry.mode is None else entry.mode)
        else:
            root.host_file(entry.path, name, mode=entry.mode)
    elif entry.content is not None:
        usual = _SECRET_MODE if entry.one_shot else 0o644
        mode = usual if entry.mode is None else entry.mode
        root.file(entry.path, entry.content, mode=mode, one_shot=entry.one_shot)


def _disks(images: tuple[DiskImage, ...], stack: ExitStack) -> tuple[Disk, ...]:
    if len(images) > MAX_DISKS:
        raise UsageError(f"{len(images)} disks; a machine has at most {MAX_DISKS}")
    opened = []
    for index, wanted in enumerate(images):
        from pykrun.disk import open_image  # of use only here

        serial = wanted.serial or f"pykrun-{disk_name(index)}"
        disk = open_image(path_of(wanted.image), read_only=wanted.read_only, format=wanted.format, serial=serial)
        stack.callback(os.close, disk.descriptor)
        opened.append(disk)
    return tuple(opened)
