"""Run a command in a VM whose root is a directory, by libkrun's functions: like chroot, with a kernel of its own.

python3 examples/krun_chroot.py ROOT COMMAND [ARG...]

The directory that this is called in is the guest's /mnt, read-only. The exit status is the command's.
"""

from __future__ import annotations

import errno
import os
import sys

from pykrun.krun import (
    krun_add_virtiofs3,
    krun_create_ctx,
    krun_disable_implicit_vsock,
    krun_set_exec,
    krun_set_log_level,
    krun_set_rlimits,
    krun_set_root,
    krun_set_vm_config,
    krun_set_workdir,
    krun_start_enter,
)

NOFILE = 7
SCRIPT = 'mount -t virtiofs work /mnt && cd /mnt && exec "$@"'


def good(what: str, result: int) -> int:
    """End the program when a function failed; its number is a negative errno."""
    if result < 0:
        sys.exit(f"{what}: {os.strerror(-result)} ({errno.errorcode.get(-result, -result)})")
    return result


def main() -> None:
    """Describe the VM and start it; only a failure comes back."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    root, *command = sys.argv[1:]
    good("log level", krun_set_log_level(2))
    ctx = good("context", krun_create_ctx())
    good("configuration", krun_set_vm_config(ctx, 1, 256))
    good("vsock", krun_disable_implicit_vsock(ctx))  # no network
    good("root", krun_set_root(ctx, root))
    good("directory", krun_add_virtiofs3(ctx, "work", os.getcwd(), 0, True))
    good("limits", krun_set_rlimits(ctx, [f"{NOFILE}=1024:4096"]))
    good("working directory", krun_set_workdir(ctx, "/"))
    good("program", krun_set_exec(ctx, "/bin/sh", ["-c", SCRIPT, "sh", *command], ["LANG=C.UTF-8"]))
    good("start", krun_start_enter(ctx))


if __name__ == "__main__":
    main()
