"""The options for virtual files and directories, which several commands have."""

from __future__ import annotations

import argparse
import os

from pykrun.cli import values
from pykrun.errors import UsageError
from pykrun.root import Root


def add_entry_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare --file, --text, --secret and --dir."""
    group.add_argument(
        "--file", action="append", default=[], metavar="GUEST=HOST[:MODE]", help="a virtual file with HOST's bytes"
    )
    group.add_argument(
        "--text", action="append", default=[], metavar="GUEST=STRING", help="a virtual file with that text (0644)"
    )
    group.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="GUEST=HOST[:MODE]",
        help="a one-shot file: it can be looked up once, is never listed (0400)",
    )
    group.add_argument("--dir", action="append", default=[], metavar="GUEST[:MODE]", help="a virtual directory (0755)")


def collect_entries(arguments: argparse.Namespace, root: Root) -> Root:
    """Put what the options say into `root`.

    :raise UsageError: a path cannot be, or a file of the host cannot be read.
    """
    for text in arguments.dir:
        path, mode = values.directory(text)
        root.directory(_checked(root, "--dir", path), mode=0o755 if mode is None else mode)
    for text in arguments.text:
        path, content = values.assignment("--text", text)
        root.file(_checked(root, "--text", path), os.fsencode(content))
    for text in arguments.file:
        path, rest = values.assignment("--file", text)
        source, mode = values.source("--file", rest)
        root.host_file(_checked(root, "--file", path), source, mode=mode)
    for text in arguments.secret:
        path, rest = values.assignment("--secret", text)
        source, mode = values.source("--secret", rest)
        root.secret(_checked(root, "--secret", path), source, mode=0o400 if mode is None else mode)
    return root


def _checked(root: Root, option: str, path: str) -> str:
    """A path that can be; what is wrong with another one is said with its option."""
    try:
        root.path(path)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", error.hint) from None
    return path
