"""Where init finds things in the guest; one object, so that tests can put them elsewhere."""

from __future__ import annotations

import posix
import time

from krun_init import _linux

_CAD_OFF = 0  # uapi/linux/reboot.h, LINUX_REBOOT_CMD_CAD_OFF


class Places:
    """Paths of the guest, the real ones by default, its virtio ports, its clock, and whose PID 1 this is."""

    start = "/.krun_start.json"
    config = "/.krun_config.json"
    init = "/init.krun"
    modules = "/stage1"
    ports = "/sys/class/virtio-ports"
    devices = "/dev"
    terminal = "/dev/hvc0"
    console = "/dev/console"
    mount_table = "/proc/mounts"
    swaps = "/proc/swaps"
    filesystems = "/proc/filesystems"
    block_devices = "/sys/class/block"
    uevent_helper = "/sys/kernel/uevent_helper"
    random = "/dev/urandom"
    vsock = "/dev/vsock"
    interfaces = "/sys/class/net"
    command_line = "/proc/cmdline"
    resolver = "/etc/resolv.conf"
    patience = 5.0
    """Seconds that a device which was promised may take to appear."""

    def started_by_kernel(self) -> bool:
        """Whether PID 1 is the kernel's own init: a container has a PID 1 too, and must not be taken for a machine.

        Asked for Ctrl-Alt-Del to be a mere signal, as an init wants it, the kernel refuses outside the initial pid
        namespace (EINVAL) and without CAP_SYS_BOOT (EPERM); reboot(2), kernel/reboot.c.
        """
        try:
            _linux.reboot(_CAD_OFF)
        except OSError:
            return False
        return True

    def clock(self) -> int:
        """Read the time of day, in nanoseconds since the epoch."""
        return time.clock_gettime_ns(time.CLOCK_REALTIME)

    def set_clock(self, now: int) -> None:
        """Set it.

        :raise OSError: the kernel does not let us, or calls it no time.
        """
        time.clock_settime_ns(time.CLOCK_REALTIME, now)

    def open_port(self, device: str, flags: int) -> int:
        """Open the virtio port of that device name.

        :raise OSError: as open(2); EBUSY when it is open already.
        """
        return posix.open(f"{self.devices}/{device}", flags | posix.O_CLOEXEC | posix.O_NOCTTY)
