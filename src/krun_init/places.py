"""Where init finds things in the guest; one object, so that tests can put them elsewhere."""

from __future__ import annotations

import posix


class Places:
    """Paths of the guest, the real ones by default, and the one way to its virtio ports."""

    start = "/.krun_start.json"
    config = "/.krun_config.json"
    init = "/init.krun"
    modules = "/stage1"
    ports = "/sys/class/virtio-ports"
    devices = "/dev"
    terminal = "/dev/hvc0"
    console = "/dev/console"
    mount_table = "/proc/mounts"
    uevent_helper = "/sys/kernel/uevent_helper"
    random = "/dev/urandom"
    patience = 5.0
    """Seconds that a device which was promised may take to appear."""

    def open_port(self, device: str, flags: int) -> int:
        """Open the virtio port of that device name.

        :raise OSError: as open(2); EBUSY when it is open already.
        """
        return posix.open(f"{self.devices}/{device}", flags | posix.O_CLOEXEC | posix.O_NOCTTY)
