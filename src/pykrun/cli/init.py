"""`pykrun init`: where the init blob is, its size and digest, how it was built; or a copy of it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pykrun import blob
from pykrun.errors import UsageError
from pykrun.host.cache import write_atomic
from pykrun.host.numbers import MACHINE

EPILOG = f"""examples:
  pykrun init
  pykrun init --output init.krun

The environment variable {blob.OVERRIDE} names a file to use in the blob's place."""

_HOW = {
    "snapshot": "CPython's core with musl, saved after its initialisation",
    "native": "CPython's core as the system has it (slower: the musl toolchain was missing)",
    "frozen": "CPython's core with the system's C library, started anew each time (it never ran where it was built)",
    "given": f"the file that {blob.OVERRIDE} names",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this subcommand's options."""
    parser.add_argument("--output", metavar="FILE", help="copy the blob to FILE, mode 0755")
    parser.add_argument(
        "--arch", default=MACHINE, metavar="A", help=f"{', '.join(blob.ARCHITECTURES)} (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what is known about the blob, and copy it if asked."""
    found = blob.find(arguments.arch)
    if arguments.output:
        _copy(found, Path(arguments.output))
    print("\n".join(report(found)))
    return 0


def report(found: blob.Blob) -> list[str]:
    """The lines that `pykrun init` prints, `name: value` each."""
    return [
        f"path: {found.path}",
        f"size: {found.size}",
        f"sha256: {found.digest}",
        f"architecture: {found.arch}",
        f"recipe: {found.recipe}: {_HOW.get(found.recipe, 'unknown')}",
        f"built with: {found.builder or 'unknown'}",
        f"switches: {'unknown' if found.recipe == 'given' else ', '.join(found.switches) or 'none'}",
    ]


def _copy(found: blob.Blob, output: Path) -> None:
    if not output.parent.is_dir():
        raise UsageError(f"cannot write {os.fspath(output)}: there is no folder {os.fspath(output.parent)}")
    try:
        write_atomic(output, [found.read()], 0o755)
    except OSError as error:
        raise UsageError(f"cannot write {os.fspath(output)}: {error.strerror}") from error
