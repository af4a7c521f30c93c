"""From a context to a request: what it names is opened here, in the caller, whose names they are."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from pykrun.krun.calls import Refusal
from pykrun.krun.context import DISABLED, EXPLICIT, IMPLICIT, Context, DiskSpec, FileSystemSpec, VsockPort
from pykrun.krun.disks import MOUNT_POINTS
from pykrun.krun.links import links
from pykrun.krun.messages import DEBUG, WARNING, tell
from pykrun.krun.streams import connect, keep_open, open_place
from pykrun.krun.vsock import TSI_INET
from pykrun.machine import ROOT_TAG
from pykrun.record import replace
from pykrun.request import Descriptor, DiskImage, Entry, Request, Tree, Volume, Vsock
from pykrun.start_data import RLIM_INFINITY, StartData

ENGINE = "PYKRUN_ENGINE"
"""Environment variable: `uml`, `qemu`, or `auto`, which is what nothing means."""
MAX_SERIAL = 20
MAX_TAG = 36
_NAME = "krun_start_enter"


def describe(context: Context, stack: ExitStack) -> Request:
    """Make the request of a context; `stack` closes what was opened for it.

    :raise Refusal: something of it cannot be.
    """
    engine = os.environ.get(ENGINE) or "auto"
    root, volumes = _filesystems(context, stack)
    network, publish = _network(context)
    streams = connect(context, stack)
    kernel = context.kernel
    if context.firmware >= 0 and kernel is not None:
        raise Refusal(errno.EINVAL, "a firmware boots its own kernel: there cannot be another one")
    return Request(
        start=_start(context, terminal=streams.terminal),
        root=root,
        volumes=volumes,
        disks=tuple(_disk(disk, stack) for disk in context.all_disks()),
        engine=engine,
        kernel=None if kernel is None else Descriptor(kernel.image),
        firmware=None if context.firmware < 0 else Descriptor(context.firmware),
        initramfs=None if kernel is None or kernel.initramfs < 0 else Descriptor(kernel.initramfs),
        command_line=None if kernel is None else kernel.cmdline,
        kernel_args=_kernel_args(context),
        init=_has_init(context),
        cpus=context.cpus,
        memory_mib=context.memory_mib,
        oem_strings=tuple(context.oem_strings),
        network=network,
        links=links(context, stack),
        dhcp=context.dhcp if context.all_nets() else None,
        network_optional=not publish,
        publish=publish,
        uid=context.uid,
        gid=context.gid,
        shutdown=None if context.shutdown < 0 else Descriptor(context.shutdown),
        owner=Descriptor(keep_open(stack, os.pidfd_open(os.getpid()))),
        console=streams.console,
        console_output=streams.console_output,
        consoles=streams.consoles,
        serials=streams.serials,
        vsock=() if context.vsock == DISABLED else tuple(_vsock(port, stack) for port in context.vsock_ports.values()),
        stdin=streams.stdin,
        stdout=streams.stdout,
        stderr=streams.stderr,
    )


# -- file systems and disks ------------------------------------------------------------------------------------


def _filesystems(context: Context, stack: ExitStack) -> tuple[Tree, tuple[Volume, ...]]:
    """The root, and one volume for each further tag: the guest cannot have two of one."""
    tags: dict[str, FileSystemSpec] = {}
    for filesystem in context.filesystems:
        tags.setdefault(filesystem.tag, filesystem)
    root = tags.pop(ROOT_TAG, None)
    custom = context.firmware >= 0 or (context.kernel is not None and context.kernel.cmdline is not None)
    if root is None and _root_disk(context) is None and not custom:
        raise Refusal(errno.EINVAL, "there is no root file system")
    volumes = []
    for tag, filesystem in tags.items():
        if not tag or not tag.isprintable() or not tag.isascii() or len(tag) > MAX_TAG:
            raise Refusal(errno.EINVAL, f"{tag!r} cannot be a file system's tag: printable ASCII, 1 to {MAX_TAG} bytes")
        volumes.append(Volume(tree=_tree(filesystem, stack), tag=tag))
    if root is None:
        return Tree(), tuple(volumes)
    tree = _tree(root, stack)
    if context.block_root is not None:  # what it needs for mounting has the supervisor; the disk is not to get it too
        points = {b"/" + point.encode() for point in MOUNT_POINTS}
        kept = tuple(directory for directory in tree.directories if directory[0] not in points)
        tree = replace(tree, directories=kept)
    return tree, tuple(volumes)


def _tree(filesystem: FileSystemSpec, stack: ExitStack) -> Tree:
    """The file system with what lies over it."""
    directory = None
    if filesystem.path is not None:
        directory = open_place(stack, f"file system {filesystem.tag!r},", filesystem.path, os.O_PATH | os.O_DIRECTORY)
    directories, entries = [], []
    for path, entry in filesystem.entries.items():
        place = b"/" + path.encode()
        if entry.data is None:
            directories.append((place, entry.mode))
        else:
            entries.append(Entry(path=place, content=entry.data, mode=entry.mode, one_shot=entry.one_shot))
    return Tree(
        directory=directory,
        read_only=filesystem.read_only and directory is not None,
        entries=tuple(entries),
        directories=tuple(directories),
    )


def _has_init(context: Context) -> bool:
    """Whether the root gets our init. One that is only made here does."""
    root = context.root
    return context.implicit_init if root is None else root.init


def _root_disk(context: Context) -> str | None:
    """The disk to boot into: that of the remount, or that of the deprecated `krun_set_root_disk`."""
    if context.block_root is not None:
        return context.block_root.device
    if context.root is None and context.root_disk is not None and not context.disks:
        return "/dev/vda"
    return None


def _disk(disk: DiskSpec, stack: ExitStack) -> DiskImage:
    is_serial = disk.id.isascii() and disk.id.isprintable()
    return DiskImage(
        image=open_place(stack, "disk", disk.path),
        read_only=disk.read_only,
        format=disk.format,
        serial=disk.id[:MAX_SERIAL] if is_serial else "",
    )


# -- the workload ----------------------------------------------------------------------------------------------


def _start(context: Context, *, terminal: bool) -> StartData:
    environment: dict[str, bytes] = {}
    for entry in context.env or ():
        name, equals, value = entry.partition(b"=")
        if equals:
            environment[os.fsdecode(name)] = value
        else:
            tell(DEBUG, "%s: the variable %r has no value and is left out", _NAME, name)
    device, block = _root_disk(context), context.block_root
    return StartData(
        program=None if context.exec_path is None else context.exec_path.encode(),
        arguments=[word.encode() for word in context.args or ()],
        environment=environment,
        workdir=None if context.workdir is None else context.workdir.encode(),
        rlimits=_rlimits(context.rlimits or []),
        terminal=terminal,
        root_device=device,
        root_fstype=None if block is None else block.fstype,
        root_options=None if block is None else block.options,
    )


def _rlimits(limits: list[str]) -> list[tuple[int, int, int]]:
    """What can be used of them, as libkrun's init has it: an item may hold several, separated by commas."""
    found: dict[int, tuple[int, int]] = {}
    for limit in ",".join(limits).split(","):
        words = limit.strip().strip('"').replace("=", ":", 1).split(":")
        if words == [""]:
            continue
        if len(words) == 3 and all(word.isascii() and word.isdigit() and len(word) <= 20 for word in words):
            number, soft, hard = map(int, words)
            if number < 16 and soft <= hard <= RLIM_INFINITY:
                found[number] = (soft, hard)
                continue
        tell(WARNING, "%s: the limit %r is left out: it is not ID=CUR:MAX", _NAME, limit)
    return [(number, soft, hard) for number, (soft, hard) in found.items()]


def _kernel_args(context: Context) -> tuple[str, ...]:
    words = []
    if context.kernel_console is not None:
        words.append(f"console={context.kernel_console}")
    if not _has_init(context):
        words += _krun_words(context)
    return tuple(words)


def _krun_words(context: Context) -> list[str]:
    """What an init of the caller's that expects libkrun's words is told by them, as far as they are plain words."""
    block = context.block_root
    words = {
        "KRUN_INIT": context.exec_path,
        "KRUN_WORKDIR": context.workdir,
        "KRUN_BLOCK_ROOT_DEVICE": None if block is None else block.device,
        "KRUN_BLOCK_ROOT_FSTYPE": None if block is None else block.fstype,
        "KRUN_BLOCK_ROOT_OPTIONS": None if block is None else block.options,
        "KRUN_RLIMITS": ",".join(context.rlimits) if context.rlimits else None,
    }
    given = [f"{name}={value}" for name, value in words.items() if value]
    return [word for word in given if word.isascii() and word.isprintable() and not set(word) & set(" \"'")]


def _vsock(port: VsockPort, stack: ExitStack) -> Vsock:
    """Its folder is opened: the socket's name is the caller's."""
    folder, name = os.path.split(port.path)
    if not name:
        raise Refusal(errno.EINVAL, f"{port.path!r} cannot be a socket")
    place = open_place(stack, f"the folder of vsock port {port.port},", folder or ".", os.O_PATH | os.O_DIRECTORY)
    return Vsock(port=port.port, folder=place, name=name, listen=port.listen)


# -- network ------------------------------------------------------------------------------------------


def _network(context: Context) -> tuple[bool, tuple[str, ...]]:
    """Whether there is user-mode networking, in place of TSI, and the ports that lead into the guest."""
    has_tsi = context.vsock == IMPLICIT or (context.vsock == EXPLICIT and bool(context.tsi & TSI_INET))
    has_nets = bool(context.all_nets())
    if has_nets or not has_tsi:
        if context.port_map:
            why = "there is a network device" if has_nets else "there is no vsock device with TSI for inet"
            tell(WARNING, "%s: the port map is not used: %s", _NAME, why)
        return False, ()
    return True, tuple(f"{host}:{guest}" for guest, host in (context.port_map or {}).items())
