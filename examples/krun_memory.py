"""Run a static program in a VM whose root is made of memory alone, by libkrun's functions.

python3 examples/krun_memory.py PROGRAM [ARG...]

The init is added by hand, as a file that can be looked up once, and so is a secret. Nothing of this host is shared.
"""

from __future__ import annotations

import os
import sys

from pykrun.krun import (
    krun_add_virtiofs3,
    krun_create_ctx,
    krun_disable_implicit_init,
    krun_disable_implicit_vsock,
    krun_fs_add_overlay_dir,
    krun_fs_add_overlay_file,
    krun_get_default_init,
    krun_set_exec,
    krun_start_enter,
)

ROOT = "/dev/root"


def good(result: int) -> int:
    """End the program when a function failed; its number is a negative errno."""
    if result < 0:
        sys.exit(os.strerror(-result))
    return result


def main() -> None:
    """Put the root together and start the program in it; only a failure comes back."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    place = "bin/" + os.path.basename(sys.argv[1])
    with open(sys.argv[1], "rb") as stream:
        program = stream.read()
    number, init = krun_get_default_init()
    good(number)
    secret = bytearray(b"the key to everything\n")  # by reference: it has to stay as it is until the VM ends
    ctx = good(krun_create_ctx())
    good(krun_disable_implicit_vsock(ctx))
    good(krun_disable_implicit_init(ctx))
    good(krun_add_virtiofs3(ctx, ROOT, None, 0, False))
    for name in ("dev", "proc", "sys", "bin", "run"):
        good(krun_fs_add_overlay_dir(ctx, ROOT, name, 0o755))
    good(krun_fs_add_overlay_file(ctx, ROOT, "init.krun", init, len(init), 0o755, True))
    good(krun_fs_add_overlay_file(ctx, ROOT, place, program, len(program), 0o755, False))
    good(krun_fs_add_overlay_file(ctx, ROOT, "run/secret", secret, len(secret), 0o400, True))
    good(krun_set_exec(ctx, "/" + place, sys.argv[2:], []))
    good(krun_start_enter(ctx))


if __name__ == "__main__":
    main()
