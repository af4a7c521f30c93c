"""`python3 -m pykrun.clib`: build the C library if it is missing, print its folder. For ./setup and the curious."""

from __future__ import annotations

import argparse
import sys

from pykrun.clib import build
from pykrun.errors import PykrunError


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m pykrun.clib", description=__doc__)
    parser.add_argument("--again", action="store_true", help="build even when the cache has it")
    arguments = parser.parse_args()
    try:
        folder = build(lambda line: print(f"C library: {line}", file=sys.stderr, flush=True), again=arguments.again)
    except PykrunError as error:
        print(f"pykrun: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
