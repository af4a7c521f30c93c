"""`pykrun init`: where the init blob is, its size and digest, how it was built; or a copy of it."""

from __future__ import annotations

import argparse
import os
import stat
import sys
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
    if arguments.output is not None and _is_standard_output(arguments.output):
        sys.stdout.buffer.write(found.read())
        print("\n".join(report(found)), file=sys.stderr)
        return 0
    if arguments.output is not None:
        _copy(found, arguments.output)
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


def _is_standard_output(output: str) -> bool:
    """Whether the report would end up in the copy."""
    try:
        return sys.stdout is not None and os.path.samestat(os.stat(output), os.fstat(1))
    except OSError:
        return False


def _copy(found: blob.Blob, output: str) -> None:
    """Write the blob to what `output` names: a file comes into being whole, a device or pipe is written to."""
    try:
        there = os.stat(output)
    except OSError:
        there = None
    if not output or (there is not None and stat.S_ISDIR(there.st_mode)):
        raise UsageError(f"cannot write {output!r}: --output wants the name of a file", "as in init.krun")
    target = Path(os.path.realpath(output))  # where a symbolic link leads: the link itself stays
    try:
        if there is None or _is_file(target, there):
            if not target.parent.is_dir():
                raise UsageError(f"cannot write {output}: there is no folder {target.parent}")
            write_atomic(target, [found.read()], 0o755)
        else:
            with open(output, "wb", buffering=0) as stream:
                _write(stream.fileno(), found.read())
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error


def _is_file(target: Path, there: os.stat_result) -> bool:
    """Whether a file lies there by that name: /dev/stdout leads to what may have none, or another one by now."""
    try:
        return stat.S_ISREG(there.st_mode) and os.path.samestat(os.stat(target), there)
    except OSError:
        return False


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
