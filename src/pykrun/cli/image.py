"""`pykrun image`: what `pykrun run --image` has unpacked and pulled, and how to be rid of it."""

from __future__ import annotations

import argparse
import json

from pykrun import image
from pykrun.errors import UsageError
from pykrun.host.numbers import MACHINE

EPILOG = """examples:
  pykrun image pull debian:12       (again, if it was pulled before)
  pykrun image ls
  pykrun image rm debian:12"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this subcommand's words and options."""
    parser.usage = "pykrun image pull REF | ls [--json] | rm REF|ID..."
    parser.add_argument("action", choices=("pull", "ls", "rm"), help="fetch and unpack; list; remove")
    parser.add_argument("images", nargs="*", metavar="REF", help="images, as `pykrun run --image` takes them")
    parser.add_argument("--arch", default=MACHINE, metavar="A", help="the machine to pull for (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="list for programs")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    if (arguments.action == "ls") == bool(arguments.images):
        raise UsageError(f"pykrun image {arguments.action} {'takes no' if arguments.images else 'wants an'} image")
    if arguments.action == "ls":
        _list(as_json=arguments.json)
    for one in arguments.images:
        if arguments.action == "rm":
            image.remove(one)
        else:
            opened = image.open_image(one, arch=arguments.arch, pull=True)
            print(f"{opened.chain}  {opened.tree}")
            for what, count in opened.lost.items():
                print(f"not as the image has it: {count} {what}")
    return 0


def _list(*, as_json: bool) -> None:
    kept = image.kept_images()
    if as_json:
        listed = [{"id": one.identity, "names": one.names, "size": one.size, "tree": str(one.tree)} for one in kept]
        print(json.dumps(listed, indent=2))
        return
    for one in kept:
        print(f"{one.identity[:12]}  {one.size >> 20:6} MiB  {', '.join(one.names) or '-'}")
