"""A web server in a VM, reached through a port of this host."""

from __future__ import annotations

import socket
import sys
import time
from urllib.request import urlopen

from pykrun import DEVNULL, MicroVM, Root

PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def fetch(url: str) -> str:
    """Ask until somebody answers: the port is there before the server is."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urlopen(url, timeout=PATIENCE) as answer:
                text: str = answer.read().decode()
            return text
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main() -> None:
    port = free_port()
    root = Root("/", read_only=True).file("/srv/www/index.html", "<p>hello from a VM</p>\n").tmpfs("/tmp")
    command = [sys.executable, "-m", "http.server", "--directory", "/srv/www", "80"]
    with MicroVM(
        command,
        root=root,
        publish=[f"{port}:80"],
        stdin=DEVNULL,
        stdout=DEVNULL,
        text=True,
        on_stderr=lambda line: print(f"log: {line}", end=""),
    ) as vm:
        print(fetch(f"http://127.0.0.1:{port}/"), end="")
    print("stopped with", vm.exit_code)


if __name__ == "__main__":
    main()
