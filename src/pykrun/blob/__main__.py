"""`python3 -m pykrun.blob`: build the init blob if it is missing. For ./setup and the curious.

Progress goes to standard error: one changing line on a terminal, plain lines otherwise. `--packages` only prints the
names of the packages that are missing here for the best recipe, one a line, and nothing when all is there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from pykrun.blob import build
from pykrun.blob.lookup import ARCHITECTURES
from pykrun.errors import PykrunError
from pykrun.host.numbers import MACHINE


class _Reporter:
    """Shows what is being done and, on a terminal, for how long."""

    def __init__(self) -> None:
        self._terminal = os.isatty(2)
        self._began = time.monotonic()

    def __call__(self, line: str) -> None:
        if self._terminal:
            sys.stderr.write(f"\r\033[Kinit blob: {line} [{time.monotonic() - self._began:.0f} s]")
        else:
            sys.stderr.write(f"init blob: {line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Clear the terminal's line."""
        if self._terminal:
            sys.stderr.write("\r\033[K")


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m pykrun.blob", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--arch", default=MACHINE, help=f"what it is to run on: {', '.join(ARCHITECTURES)} (default: %(default)s)"
    )
    parser.add_argument("--again", action="store_true", help="build even when the cache has it")
    parser.add_argument(
        "--with", dest="with_parts", action="append", default=[], metavar="SWITCH", help="turn a part on"
    )
    parser.add_argument(
        "--without", dest="without_parts", action="append", default=[], metavar="SWITCH", help="turn a part off"
    )
    parser.add_argument("--packages", action="store_true", help="only print the packages that are missing")
    args = parser.parse_args()
    if args.packages:
        from pykrun.blob.toolchain import missing_packages

        print("".join(f"{name}\n" for name in missing_packages()), end="")
        return 0
    reporter = _Reporter()
    try:
        blob = build(
            args.arch, reporter, again=args.again, with_parts=args.with_parts, without_parts=args.without_parts
        )
    except (PykrunError, OSError) as error:
        reporter.end()
        sys.stderr.write(f"pykrun: {error}\n")
        return 1
    reporter.end()
    print(blob.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
