"""Hand a key to a program that should not be able to keep it: a file that can be opened once."""

from __future__ import annotations

import secrets

from pykrun import Root, run

SCRIPT = """
cat /run/key > /dev/null && echo "the key was read"
cat /run/key 2> /dev/null || echo "and is gone"
ls /run | grep key || echo "it was never listed"
"""


def main() -> None:
    root = Root("/", read_only=True).secret("/run/key", secrets.token_bytes(32)).tmpfs("/tmp", size=16 << 20)
    result = run(["/bin/sh", "-c", SCRIPT], root=root, env={"PATH": "/usr/bin:/bin"}, text=True, check=True, timeout=60)
    print(result.stdout, end="")


if __name__ == "__main__":
    main()
