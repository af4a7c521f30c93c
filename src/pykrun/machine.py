"""The one description of a machine that every engine understands."""

from __future__ import annotations

from pykrun.host.numbers import MACHINE
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

ROOT_TAG = "/dev/root"
"""The virtio-fs tag of the root file system, literally (as libkrun has it)."""


@record(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A guest kernel and what belongs to it.

    `image` is an executable for User Mode Linux; for QEMU a bzImage, an ELF vmlinux or an Image. `modules` is the
    folder that holds `kernel/` and `modules.dep`, None when everything that is needed is built in. `arch` is the
    machine that it runs on, as `uname -m` says.
    """

    image: Path
    modules: Path | None
    release: str
    arch: str = MACHINE


@record(frozen=True, slots=True, kw_only=True)
class Network:
    """A network device of the guest.

    :param mac: its address: six bytes, not a multicast one.
    :param mtu: the largest packet in bytes, without the Ethernet header; 68 to 65520. 0 says nothing: the guest's
        choice, which is 1500 unless DHCP says otherwise.
    """

    mac: bytes = b"\x52\x54\x00\x6b\x72\x75"
    mtu: int = 65520


@record(frozen=True, slots=True, kw_only=True)
class Disk:
    """One block device of the guest.

    :param descriptor: the open image: a regular file or a block device. It stays the caller's, and holds its lock.
    :param path: its name, for messages, and for the programs that open it themselves.
    :param size: bytes that the guest sees, a multiple of 512.
    :param read_only: the guest may not write; `descriptor` is open for reading only.
    :param format: a member of `DISK_FORMATS`.
    :param serial: what the guest finds as the device's serial number: up to 20 ASCII characters.
    """

    descriptor: int
    path: str
    size: int
    read_only: bool = False
    format: str = "raw"
    serial: str = ""


@record(frozen=True, slots=True, kw_only=True)
class ConsolePort:
    """One port of a virtio-console device. Its descriptors stay the caller's.

    :param name: what the guest finds in /sys/class/virtio-ports/*/name: up to 64 bytes; a console may go without.
    :param console: a terminal of the guest, /dev/hvcN, numbered over all devices in their order, behind the workload's;
        else a port, /dev/vportNpM, where N and M differ between engines: find it by its name.
    :param input: descriptor that the guest reads from, None for nothing. Its end is the guest's end of file if the port
        has no output and is no console.
    :param output: descriptor that takes what the guest writes, None to drop it. A writer in the guest waits for a slow
        reader, except on a console: there the whole guest would, so that what does not fit into 1 MiB is dropped.
    :param terminal: `input` is a terminal: it is raw while the machine runs, and its window's size is the console's
        (not with QEMU's own device).
    """

    name: str = ""
    console: bool = False
    input: int | None = None
    output: int | None = None
    terminal: bool = False


@record(frozen=True, slots=True, kw_only=True)
class Console:
    """A virtio-console device beside the one that every machine has.

    :param ports: one to `MAX_CONSOLE_PORTS`.
    """

    ports: tuple[ConsolePort, ...]


@record(frozen=True, slots=True, kw_only=True)
class Serial:
    """A serial line of the guest, /dev/ttyS0 the first. Its descriptors stay the caller's.

    :param input: descriptor that the guest reads from, None for nothing.
    :param output: descriptor that takes what the guest writes, None to drop it.
    """

    input: int | None = None
    output: int | None = None


@record(frozen=True, slots=True, kw_only=True)
class VsockPort:
    """A port of the guest's vsock and a Unix stream socket of the host that belong together.

    :param port: from 0 on, at most 2^32 - 2.
    :param path: the socket. Without `listen` somebody listens there whenever the guest connects to the port of the host
        (CID 2); with it the socket is ours, made before the guest boots and removed at any end of the machine, and who
        connects to it is connected to the port of the guest.
    :param listen: connections come from the host.
    """

    port: int
    path: str
    listen: bool = False


GUEST_CID = 3
"""The address of every guest's vsock: nobody else sees it (VMADDR_CID_LOCAL and _HOST are 1 and 2)."""

MAX_CONSOLE_PORTS = 30
"""Of one device, on every engine."""
MAX_PORT_NAME = 64
"""Bytes of a port's name."""
MAX_CONSOLES = 8
"""Further console devices of one machine."""
MAX_TERMINALS = 15
"""Consoles on them: with hvc0 as many as Linux has in its table (MAX_NR_HVC_CONSOLES)."""

DISK_FORMATS = ("raw", "qcow2")
MAX_NETWORKS = 8
"""Of one machine."""
MAX_DISKS = 16
"""Of one machine: what fits beside the other devices into QEMU's one bus."""


def disk_name(index: int) -> str:
    """Return what the guest's kernel calls the disk with that place in `Machine.disks`: vda, vdb, ..."""
    return f"vd{chr(ord('a') + index)}"


def disk_place(device: str) -> tuple[int, int] | None:
    """Return which disk and which partition of it (0: all of it) a name like `/dev/vda2` means; None: no such name."""
    name = device.removeprefix("/dev/")
    letter, number = name[2:3], name[3:]
    if name[:2] != "vd" or not "a" <= letter <= "z" or (number and not (number.isascii() and number.isdigit())):
        return None
    if number.startswith("0") or len(number) > 3:
        return None
    return ord(letter) - ord("a"), int(number or "0")


LAYER_TAG = "layer"
"""Our tag of the directory that keeps a writable layer over the root."""


def volume_tag(index: int) -> str:
    """Return our virtio-fs tag of the shared file system with that place beside the root."""
    return f"volume{index}"


@record(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything an engine must know to start a VM; nothing about what the VM is to do (that is the start data).

    :param kernel: the guest kernel.
    :param initramfs: stage one, an uncompressed newc cpio; None boots straight into the virtio-fs root.
    :param kernel_args: words the caller adds to the kernel command line, each without white space.
    :param cpus: virtual CPUs, at least 1.
    :param memory_mib: guest memory in MiB.
    :param shares: tags of the virtio-fs devices, the root's first.
    :param networks: network devices, eth0 first.
    :param disks: block devices, /dev/vda first.
    :param ports: names of the virtio-console ports, in order.
    :param console: also a virtio console, hvc0 in the guest.
    :param consoles: further virtio-console devices.
    :param vsock: a vsock device; the guest's address is `GUEST_CID`.
    :param serials: how many serial lines there are, at most the engine's `max_serials`.
    :param init: value for the kernel's `init=`, None to leave it out.
    :param execute_init: stage one executes /init.krun of the root instead of going on as init itself (the caller brings
        an init of their own).
    :param command_line: replaces the fixed part of the kernel's command line: everything but `kernel_args` and what the
        engine cannot do without.
    :param oem_strings: strings of the firmware's table 11 (SMBIOS); an engine without a firmware leaves them out.
    :param verbose: let the kernel print its boot messages (slower: each line goes through an emulated console).
    """

    kernel: Kernel
    initramfs: Path | None
    kernel_args: tuple[str, ...] = ()
    cpus: int = 1
    memory_mib: int = 256
    shares: tuple[str, ...] = (ROOT_TAG,)
    networks: tuple[Network, ...] = ()
    disks: tuple[Disk, ...] = ()
    ports: tuple[str, ...] = ()
    console: bool = False
    consoles: tuple[Console, ...] = ()
    vsock: bool = False
    serials: int = 0
    init: str | None = None
    execute_init: bool = False
    command_line: tuple[str, ...] | None = None
    oem_strings: tuple[str, ...] = ()
    verbose: bool = False
