"""`pykrun stop`: the orderly end of a VM."""

from __future__ import annotations

import argparse

from pykrun import vms
from pykrun.cli import values
from pykrun.errors import PykrunError

EPILOG = """The command of each VM gets its stop signal (TERM, or what its image says), and KILL after the grace; then
disks are synced, and the VM ends. It returns when all of them have.

examples:
  pykrun stop web
  pykrun stop --grace 0 web db
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.usage = "pykrun stop [--grace SECONDS] VM..."
    parser.add_argument(
        "--grace", metavar="SECONDS", help="between TERM and KILL (10, or what the VM was started with)"
    )
    parser.add_argument("vms", nargs="+", metavar="VM", help="names, as `pykrun ps` shows them")


def run(arguments: argparse.Namespace) -> int:
    """Ask each, and wait for all."""
    grace = None
    if arguments.grace is not None:
        grace = 0.0 if arguments.grace == "0" else values.seconds("--grace", arguments.grace)
    clients = []
    failed: PykrunError | None = None
    for name in arguments.vms:
        try:
            client = vms.connect(name)
            client.call("stop", grace=grace)
            client.ask("wait")
            clients.append(client)
        except PykrunError as error:
            failed = failed or error
    for client in clients:
        client.receive()
        client.close()
    if failed is not None:
        raise failed
    return 0
