"""The records of a request. Nothing here is opened, forked or kept: a request can be made, compared and thrown away."""

from __future__ import annotations

from pykrun.record import field, record
from pykrun.start_data import StartData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.net import Publish


@record(frozen=True, slots=True)
class Descriptor:
    """An open descriptor of the process that has the request: the very file, whatever its name is by now.

    O_PATH is enough for everything but streams.
    """

    number: int


Place = str | bytes | Descriptor
"""Where something of the host is: a path, or what is open already."""


@record(frozen=True, slots=True, kw_only=True)
class Entry:
    """A virtual file. One of `content` and `source` is given.

    :param path: absolute, in the tree that it belongs to.
    :param content: its bytes. They are not copied before the request is sent.
    :param source: a file of the host that has them.
    :param mode: permission bits; None for those of `source`, 0644 of a content, 0400 of a one-shot file.
    :param one_shot: it can be looked up once and is never listed.
    """

    path: bytes
    content: bytes | bytearray | memoryview | None = None
    source: Place | None = None
    mode: int | None = None
    one_shot: bool = False


@record(frozen=True, slots=True, kw_only=True)
class Tree:
    """A file system that is served to the guest.

    :param directory: the host's directory that lies below the entries; None for nothing.
    :param read_only: refuse every change in it.
    :param cache: what the guest may remember of it: `auto`, `always` or `never`.
    :param entries: virtual files over it.
    :param directories: virtual directories and their modes, in the order in which they are made.
    """

    directory: Place | None = None
    read_only: bool = False
    cache: str = "auto"
    entries: tuple[Entry, ...] = ()
    directories: tuple[tuple[bytes, int], ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class Volume:
    """One more file system beside the root.

    :param tree: what it serves.
    :param where: the guest's directory on which init mounts it; None leaves that to whoever knows the tag.
    :param tag: its virtio-fs tag; empty for one of ours.
    """

    tree: Tree
    where: bytes | None = None
    tag: str = ""


@record(frozen=True, slots=True, kw_only=True)
class DiskImage:
    """A block device of the guest.

    :param image: the file or block device of the host.
    :param read_only: the guest may not write.
    :param format: a member of `pykrun.machine.DISK_FORMATS`; never guessed.
    :param serial: what the guest finds as its serial number; empty for one of ours.
    """

    image: Place
    read_only: bool = False
    format: str = "raw"
    serial: str = ""


@record(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a console device (`pykrun.machine.ConsolePort`).

    :param console: a terminal of the guest, /dev/hvcN.
    :param input: what the guest reads, None for nothing.
    :param output: what takes what the guest writes, None to drop it.
    :param terminal: `input` is a terminal.
    """

    name: str = ""
    console: bool = False
    input: Descriptor | None = None
    output: Descriptor | None = None
    terminal: bool = False


@record(frozen=True, slots=True, kw_only=True)
class Console:
    """A virtio-console device beside the workload's."""

    ports: tuple[Port, ...]


@record(frozen=True, slots=True, kw_only=True)
class Serial:
    """A serial line, /dev/ttyS0 the first."""

    input: Descriptor | None = None
    output: Descriptor | None = None


@record(frozen=True, slots=True, kw_only=True)
class Vsock:
    """A port of the guest's vsock and a Unix socket of the host (`pykrun.machine.VsockPort`).

    :param folder: where the socket is, or is to be.
    :param name: its name there.
    """

    port: int
    folder: Place
    name: str
    listen: bool = False


@record(frozen=True, slots=True, kw_only=True)
class Link:
    """A network card and what it is plugged into (`pykrun.net.link.Link`).

    :param kind: `stream`, `datagram`, `tap` or `interface`.
    :param end: a connected socket; None for a tap device or an interface.
    :param tap: the tap device's name, or the interface's.
    :param mac: the card's address: six bytes.
    :param mtu: the largest packet that the guest may send.
    """

    kind: str
    end: Descriptor | None = None
    tap: str = ""
    mac: bytes = b""
    mtu: int = 1500


MEMORY = "memory"
"""The writable layer that is forgotten at the VM's end."""


@record(frozen=True, slots=True, kw_only=True)
class ImageRoot:
    """A container image that becomes the root, and whose configuration is followed.

    Program, arguments, environment and working directory of the request's start data are the caller's words, which
    Docker's precedence puts over the image's; a program of None is the image's own.

    :param reference: as `pykrun.image.open_image` takes it.
    :param entrypoint: in place of the image's; empty takes it away, None leaves it.
    :param user: `USER[:GROUP]`, names of the image or numbers; None for the image's own.
    """

    reference: str
    entrypoint: str | None = None
    user: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class Request:
    """One VM and its one workload; the members that `pykrun.supervisor.Plan` has too mean the same there.

    :param publish: ports as records, or as `--publish` takes them.
    :param image: a container image in place of the root's directory.
    :param writable: a writable layer over the root: `MEMORY`, or a directory of this host that keeps it; None for none.
    :param stdin: descriptor, None for a closed stream; likewise `stdout` and `stderr`.
    :param boot_log: where the kernel's console goes; a pipe's writing end will do.
    :param uid: the supervisor's user id from before the VM is started; None to stay who it is; likewise `gid`.
    :param shutdown: an eventfd; a number in it asks the guest for an orderly end.
    :param owner: a process (pidfd_open(2)) with whose end the VM ends.
    """

    start: StartData
    root: Tree = field(default_factory=Tree)
    image: ImageRoot | None = None
    writable: str | None = None
    volumes: tuple[Volume, ...] = ()
    disks: tuple[DiskImage, ...] = ()
    engine: str = "auto"
    accel: str = "auto"
    kernel: Place | None = None
    firmware: Place | None = None
    modules: Place | None = None
    arch: str | None = None
    kernel_args: tuple[str, ...] = ()
    cpus: int | None = None
    memory_mib: int = 256
    network: bool = False
    publish: tuple[Publish | str, ...] = ()
    timeout: float | None = None
    sandbox: str = "auto"
    boot_log: Place | None = None
    console: bool = False
    console_output: Place | None = None
    consoles: tuple[Console, ...] = ()
    serials: tuple[Serial, ...] = ()
    vsock: tuple[Vsock, ...] = ()
    links: tuple[Link, ...] = ()
    dhcp: bool | None = None
    init: bool = True
    initramfs: Place | None = None
    command_line: str | None = None
    oem_strings: tuple[str, ...] = ()
    network_optional: bool = False
    escape: bool = True
    name: str | None = ""
    uid: int | None = None
    gid: int | None = None
    shutdown: Descriptor | None = None
    owner: Descriptor | None = None
    stdin: Descriptor | None = None
    stdout: Descriptor | None = None
    stderr: Descriptor | None = None
