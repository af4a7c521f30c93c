"""Start a guest and wait, to be killed: `python -m tests.engine.launcher ENGINE FOLDER [deny] [now]`.

Prints "up PID" when the guest is (with `now`: as soon as the engine was forked).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pykrun.host import linux
from pykrun.sandbox.filter import assemble
from tests.engine import guest


def main() -> None:
    """Run the words of the command line."""
    engine, folder, *rest = sys.argv[1:]
    if "deny" in rest:
        linux.set_no_new_privileges()
        linux.install_filter(assemble())
    chosen = guest.choose(engine)
    running = chosen.launch(guest.machine(chosen, Path(folder), "say guest is up; sleep 1000"))
    if "now" not in rest:
        guest.Watch(running).seen(b"guest is up")
    print("up", running.pid, flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    main()
