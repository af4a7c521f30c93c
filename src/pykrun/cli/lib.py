"""`pykrun lib`: where the C library is; it is built if need be."""

from __future__ import annotations

import argparse
import sys

from pykrun import clib

EPILOG = """examples:
  cc program.c $(PKG_CONFIG_PATH=$(pykrun lib --path)/pkgconfig pkg-config --cflags --libs libkrun)
  LD_LIBRARY_PATH=$(pykrun lib --path) ./a-program-built-for-libkrun"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this subcommand's options."""
    parser.add_argument(
        "--path",
        action="store_true",
        help="print the folder that holds libkrun.so.1, libkrun.so, libkrun.h and pkgconfig/ (default)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Build the library if it is missing, and print where it is."""
    folder = clib.find() or clib.build(_report)
    print(folder)
    return 0


def _report(line: str) -> None:
    sys.stderr.write(f"pykrun: {line}\n")
    sys.stderr.flush()
