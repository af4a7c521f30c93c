"""What is to be run: everything opened and ready."""

from __future__ import annotations

import os
import signal

from pykrun.machine import Console, Disk, Serial, VsockPort
from pykrun.record import record
from pykrun.root import Root
from pykrun.start_data import StartData

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack

    from pykrun.net import Publish
    from pykrun.net.link import Link
    from pykrun.share import Share


@record(frozen=True, slots=True, kw_only=True)
class Volume:
    """One more shared file system beside the root.

    :param share: what is served.
    :param where: the guest's directory on which init mounts it; None: nobody does unless the workload itself.
    :param tag: its virtio-fs tag; empty for one of ours.
    """

    share: Share
    where: bytes | None = None
    tag: str = ""


@record(frozen=True, slots=True, kw_only=True)
class Plan:
    """One VM and its one workload.

    :param root: the root file system; closed by the supervisor.
    :param share: the directory of the host that lies below the root's entries, as a share of `root`; None for nothing.
    :param volumes: further file systems.
    :param holds: descriptors that keep others away from what the VM uses; closed by the supervisor.
    :param stop_signal: what SIGTERM becomes for the workload.
    :param start: the workload; the supervisor fills in what depends on the machine (ports, window, seed).
    :param disks: block devices, /dev/vda first; their descriptors are closed by the supervisor.
    :param engine: `auto` or an engine's name.
    :param accel: `auto`, `kvm` or `tcg`.
    :param kernel: path of a kernel, None for the engine's default.
    :param firmware: path of a firmware to boot instead: what it finds on the disks has no init of ours, and its end is
        exit code 0.
    :param modules: folder with its modules, None for what belongs to the kernel.
    :param arch: the machine that the guest is, as `uname -m` says; None for the kernel's or the host's.
    :param cpus: None when the caller does not care.
    :param network: the guest has a network (docs/network.md).
    :param publish: ports of this host that lead into the guest.
    :param links: network cards that are plugged into something of the caller's, behind that of `network`.
    :param dhcp: the guest asks on eth0 for an address; None if `network` is eth0.
    :param timeout: seconds until the VM is ended, None for no limit.
    :param sandbox: `auto` or `require`.
    :param boot_log: file that receives the kernel's console, with all of its messages.
    :param console: the guest has a console hvc0 also if the workload has no terminal there; what is written to it goes
        where the kernel's console goes, and nothing is to be read from it.
    :param console_output: file that receives the kernel's console as it is, without further messages; not with
        `boot_log`.
    :param consoles: further virtio-console devices; their terminals become hvc1, hvc2, ... behind hvc0, or hvc0, ...
    :param serials: serial lines, /dev/ttyS0 first. Where the engine has none (or not so many) a virtio console stands
        in for each, behind the others, and a warning says so.
    :param vsock: ports of the guest's vsock that lead to Unix sockets of the host, or are led to by them.
    :param init: the root gets our init as /init.krun; False: it has one of its own, or the kernel's command line names
        another.
    :param initramfs: the kernel's, in place of stage one; None for that.
    :param command_line: replaces the fixed part of the kernel's command line, init= included; None for that.
    :param oem_strings: strings of the firmware's table 11 (SMBIOS), where the engine has a firmware.
    :param network_optional: a network that is not to be had is worth a warning, and no failure.
    :param name: what the VM is called in the list of this user's (pykrun.vms); empty for a name that is made up, None
        for a VM that is not listed.
    :param escape: ^] ^] ^] at the workload's terminal end the VM.
    :param stdin: descriptor, None when closed; likewise `stdout`, `stderr`.
    """

    root: Root
    start: StartData
    share: Share | None = None
    volumes: tuple[Volume, ...] = ()
    holds: tuple[int, ...] = ()
    stop_signal: int = signal.SIGTERM
    disks: tuple[Disk, ...] = ()
    engine: str = "auto"
    accel: str = "auto"
    kernel: str | None = None
    firmware: str | None = None
    modules: str | None = None
    arch: str | None = None
    kernel_args: tuple[str, ...] = ()
    cpus: int | None = None
    memory_mib: int = 256
    network: bool = False
    publish: tuple[Publish, ...] = ()
    links: tuple[Link, ...] = ()
    dhcp: bool | None = None
    timeout: float | None = None
    sandbox: str = "auto"
    boot_log: str | None = None
    console: bool = False
    console_output: str | None = None
    consoles: tuple[Console, ...] = ()
    serials: tuple[Serial, ...] = ()
    vsock: tuple[VsockPort, ...] = ()
    init: bool = True
    initramfs: str | None = None
    command_line: str | None = None
    oem_strings: tuple[str, ...] = ()
    network_optional: bool = False
    escape: bool = True
    name: str | None = None
    stdin: int | None = 0
    stdout: int | None = 1
    stderr: int | None = 2

    def take_over(self, stack: ExitStack) -> None:
        """Have everything of it that is open closed with the stack, and the secrets be the workload's."""
        stack.callback(self.root.close)
        for descriptor in (*(disk.descriptor for disk in self.disks), *self.holds):
            stack.callback(os.close, descriptor)
        if self.start.user is not None:
            self.root.reader = self.start.user.uid, self.start.user.gid
