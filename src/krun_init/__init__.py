"""PID 1 of the guest: `krun_init.main.main()`, frozen into one static file by `pykrun.blob`.

The top level of every module here runs when the blob is built, not in the guest: no clocks, environment, process ids,
descriptors or random numbers there. Only built-in modules are imported (posix, not os), because nothing else is in the
blob; and the boot path is kept lean, since each page that is touched and each system call costs boot time.
"""

import sys

if "_linux" in sys.builtin_module_names:  # the blob links the seam in under its short name
    sys.modules["krun_init._linux"] = __import__("_linux")
