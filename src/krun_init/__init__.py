"""PID 1 of the guest: `krun_init.main.main()`, frozen into one static file by `pykrun.blob`.

`krun_init.freebsd.main()` is the same for FreeBSD. A file holds the modules that its own entry reaches, and only those.

The top level of every module here runs when the blob is built, not in the guest: no clocks, environment, process ids,
descriptors or random numbers there. Only built-in modules are imported (posix, not os), because nothing else is in the
blob; and the boot path is kept lean, since each page that is touched and each system call costs boot time.
"""

import sys

for _seam in ("_linux", "_freebsd"):  # the blob links the seam in under its short name
    if _seam in sys.builtin_module_names:
        sys.modules[f"krun_init.{_seam}"] = __import__(_seam)
