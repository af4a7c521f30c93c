"""Boot a disk image in a VM by libkrun's functions, and end it in order when its time is over.

python3 examples/krun_disk.py IMAGE SECONDS COMMAND [ARG...]

The image holds a file system, without partitions, of a type that the guest's kernel knows.
"""

from __future__ import annotations

import os
import sys
import threading

from pykrun.krun import (
    krun_add_disk3,
    krun_create_ctx,
    krun_disable_implicit_vsock,
    krun_get_shutdown_eventfd,
    krun_init_log,
    krun_set_exec,
    krun_set_root_disk_remount,
    krun_start_enter,
)

RAW, FULL_SYNC = 0, 2
STDERR, WARNINGS, NO_COLOURS = -1, 2, 2


def good(result: int) -> int:
    """End the program when a function failed; its number is a negative errno."""
    if result < 0:
        sys.exit(os.strerror(-result))
    return result


def main() -> None:
    """Describe the VM and start it; only a failure comes back."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    image, seconds, *command = sys.argv[1:]
    good(krun_init_log(STDERR, WARNINGS, NO_COLOURS, 0))
    ctx = good(krun_create_ctx())
    good(krun_disable_implicit_vsock(ctx))
    good(krun_add_disk3(ctx, "root", image, RAW, False, False, FULL_SYNC))
    good(krun_set_root_disk_remount(ctx, "/dev/vda", "auto", None))
    good(krun_set_exec(ctx, command[0], command[1:], None))  # with the environment of this process
    shutdown = good(krun_get_shutdown_eventfd(ctx))
    timer = threading.Timer(float(seconds), os.eventfd_write, (shutdown, 1))
    timer.daemon = True
    timer.start()
    good(krun_start_enter(ctx))


if __name__ == "__main__":
    main()
