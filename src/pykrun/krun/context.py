"""A context: all that was asked for before the VM starts, as plain records, and the contexts by their ids."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal
from pykrun.machine import ROOT_TAG
from pykrun.record import field, record
from pykrun.shim import Shim

MAX_ID = (1 << 31) - 1


@record(slots=True, kw_only=True)
class OverlayEntry:
    """A virtual file or directory of a file system.

    :param data: a file's content, by reference; None for a directory.
    """

    mode: int
    data: memoryview | None = None
    one_shot: bool = False


@record(slots=True, kw_only=True)
class FileSystemSpec:
    """A virtio-fs device.

    :param path: the directory of the host, None for none.
    :param init: the implicit init lies in it.
    :param entries: what lies over it, by path without the leading slash; parents come first.
    """

    tag: str
    path: str | None
    read_only: bool = False
    init: bool = False
    entries: dict[str, OverlayEntry] = field(default_factory=dict)


@record(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """A virtio-blk device.

    :param format: `raw`, `qcow2` or `vmdk`.
    :param sync: 0 none, 1 relaxed, 2 full.
    """

    id: str
    path: str
    format: str = "raw"
    read_only: bool = False
    direct_io: bool = False
    sync: int = 2


@record(frozen=True, slots=True, kw_only=True)
class BlockRoot:
    """The disk that is to become the root."""

    device: str
    fstype: str | None = None
    options: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class NetSpec:
    """A network device.

    :param kind: `unixstream`, `unixgram` or `tap`.
    :param path: the peer's socket, or the tap device's name; None when `descriptor` is connected to it.
    :param mac: six bytes.
    :param features: bits of virtio-net that the peer can do; nothing follows from them.
    :param vfkit: send the magic word of vfkit's mode first.
    """

    kind: str
    mac: bytes
    path: str | None = None
    descriptor: int = -1
    features: int = 0
    vfkit: bool = False


@record(frozen=True, slots=True, kw_only=True)
class VsockPort:
    """A port of the vsock device and a Unix socket of the host.

    :param listen: the host connects to the guest: the socket is ours to make.
    """

    port: int
    path: str
    listen: bool = False


@record(frozen=True, slots=True, kw_only=True)
class ConsolePortSpec:
    """A port of a multiport console; a terminal's has one descriptor for both directions."""

    name: str
    input: int
    output: int
    tty: bool = False


@record(slots=True, kw_only=True)
class ConsoleSpec:
    """A virtio console: with `ports`, or (None) one whose ports follow from three descriptors."""

    ports: list[ConsolePortSpec] | None = None
    input: int = -1
    output: int = -1
    error: int = -1


@record(frozen=True, slots=True, kw_only=True)
class SerialSpec:
    """A serial console."""

    input: int
    output: int


@record(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A kernel of the caller's.

    :param image: its open file, and `initramfs` that of its initramfs (-1 for none).
    :param format: see `pykrun.krun.kernel.FORMATS`.
    :param cmdline: replaces the fixed part of ours; None leaves that.
    """

    path: str
    image: int
    format: int
    initramfs_path: str | None = None
    initramfs: int = -1
    cmdline: str | None = None


IMPLICIT, DISABLED, EXPLICIT = range(3)
"""The vsock device: made as needed, none, or asked for."""


@record(slots=True, kw_only=True)
class Context:
    """What one VM is to be. The values before anything was asked for are libkrun's, but for the memory."""

    id: int = 0
    cpus: int | None = None
    memory_mib: int = 256
    split_irqchip: bool = False
    nested_virt: bool = False
    oem_strings: list[str] = field(default_factory=list)
    uid: int | None = None
    gid: int | None = None

    filesystems: list[FileSystemSpec] = field(default_factory=list)
    implicit_init: bool = True
    disks: list[DiskSpec] = field(default_factory=list)
    root_disk: DiskSpec | None = None
    data_disk: DiskSpec | None = None
    block_root: BlockRoot | None = None

    nets: list[NetSpec] = field(default_factory=list)
    legacy_net: NetSpec | None = None
    legacy_mac: bytes | None = None
    dhcp: bool = False
    port_map: dict[int, int] | None = None
    """Ports of the guest and the host's for each."""
    vsock: int = IMPLICIT
    tsi: int = 0
    vsock_ports: dict[int, VsockPort] = field(default_factory=dict)

    implicit_console: bool = True
    console_output: str | None = None
    kernel_console: str | None = None
    consoles: list[ConsoleSpec] = field(default_factory=list)
    serials: list[SerialSpec] = field(default_factory=list)

    exec_path: str | None = None
    args: list[str] | None = None
    env: list[bytes] | None = None
    workdir: str | None = None
    rlimits: list[str] | None = None

    kernel: KernelSpec | None = None
    firmware: int = -1
    shutdown: int = -1
    """The eventfd, once somebody asked for it."""
    nothing: int = -1
    """/dev/null, opened while it could be."""
    shim: Shim | None = None
    """The process that will run the VM; None when it could not be started, which is tried again then."""

    def find_filesystem(self, tag: str) -> FileSystemSpec | None:
        """The first file system of that tag, which is the one that the guest uses."""
        return next((found for found in self.filesystems if found.tag == tag), None)

    @property
    def root(self) -> FileSystemSpec | None:
        """The root file system."""
        return self.find_filesystem(ROOT_TAG)

    def all_disks(self) -> list[DiskSpec]:
        """The disks, /dev/vda first. The two old functions count only where none of the new ones was used."""
        return self.disks or [disk for disk in (self.root_disk, self.data_disk) if disk is not None]

    def all_nets(self) -> list[NetSpec]:
        """The network devices, eth0 first; that of the old functions comes last."""
        return [*self.nets, *([self.legacy_net] if self.legacy_net is not None else [])]

    def close(self) -> None:
        """Close what the context has opened, and let the supervisor go."""
        if self.shim is not None:
            _left.append(self.shim.leave())
            self.shim = None
        opened = [
            self.shutdown,
            self.nothing,
            self.firmware,
            *((self.kernel.image, self.kernel.initramfs) if self.kernel else ()),
        ]
        self.shutdown, self.nothing, self.firmware, self.kernel = -1, -1, -1, None
        for descriptor in opened:
            if descriptor >= 0:
                try:
                    os.close(descriptor)
                except OSError:  # the caller has closed it: EBADF
                    pass


_left: list[int] = []
"""The pidfds of supervisors that nobody needs any more: they end by themselves, and we have to wait for them."""


def reap() -> None:
    """Wait for those of them that have ended."""
    for pidfd in list(_left):
        try:
            if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG) is None:
                continue
        except ChildProcessError:  # somebody has waited for it, or it is our parent's child
            pass
        _left.remove(pidfd)
        os.close(pidfd)


_contexts: dict[int, Context] = {}
_next = 0


def add(context: Context) -> int:
    """Give a context its id. No id is used twice.

    :raise Refusal: ENOMEM: they are used up.
    """
    global _next
    if _next >= MAX_ID:
        raise Refusal(errno.ENOMEM, "all ids of contexts are used up")
    context.id = _next
    _contexts[_next] = context
    _next += 1
    return context.id


def find(ctx_id: int) -> Context:
    """Return the context of that id.

    :raise Refusal: ENOENT: there is none.
    """
    context = _contexts.get(ctx_id)
    if context is None:
        raise Refusal(errno.ENOENT, f"there is no context {ctx_id!r}")
    return context


def take(ctx_id: int) -> Context:
    """Remove the context of that id and return it.

    :raise Refusal: ENOENT: there is none.
    """
    context = find(ctx_id)
    del _contexts[ctx_id]
    return context
