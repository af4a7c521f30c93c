"""A server that does what a test asks, in this process' child or in that of an ordinary user.

`python -m tests.sandbox.servants WISH [deny] [folder=DIR]` starts one, prints its pid, level and note, and waits to be
killed; with `deny` no namespaces can be made. With a folder it prints what the servant could open.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pykrun.host import linux
from pykrun.loop import IN, Loop
from pykrun.sandbox.filter import assemble
from pykrun.sandbox.fork import Wish
from pykrun.sandbox.servant import Servant, Service, serve
from tests.sandbox.prison import PYTHON, ROOT, SECONDS, USER


class Errand:
    """A servant and a socket to it."""

    def __init__(self, work: Callable[[socket.socket], None], wish: Wish = "auto", **more: object) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(SECONDS)
        with theirs:
            service = Service(
                name="errand",
                serve=lambda: work(theirs),
                descriptors=(theirs.fileno(),),
                **more,  # type: ignore[arg-type]
            )
            try:
                self.servant: Servant = serve(service, wish)
            except BaseException:
                self.socket.close()
                raise

    def hear(self) -> str:
        """Everything that it says until its end."""
        return b"".join(iter(lambda: self.socket.recv(65536), b"")).decode()

    def ended(self) -> str:
        """Wait for its end; return why."""
        deadline = time.monotonic() + SECONDS
        while (reason := self.servant.reap()) is None:
            assert time.monotonic() < deadline, "it goes on"
            time.sleep(0.01)
        return reason

    def close(self) -> None:
        self.servant.close()
        self.socket.close()


def errors_of(*calls: Callable[[], object]) -> str:
    """The errno of each call, 0 where it went well."""
    found = []
    for call in calls:
        try:
            call()
            found.append(0)
        except OSError as error:
            found.append(error.errno or -1)
    return repr(found)


def echo(sock: socket.socket) -> None:
    """What servers do: a loop that answers until the other side hangs up."""
    loop = Loop()

    def readable(_events: int) -> None:
        content = sock.recv(100)
        sock.send(content)
        if not content:
            loop.stop()

    loop.add(sock.fileno(), IN, readable)
    loop.call_later(1000, loop.stop)
    loop.run()


def start_as_user(wish: Wish, *host: str, root: bool = False, stderr: int | None = None) -> subprocess.Popen[str]:
    """Start a servant whose supervisor is an ordinary user's process (or root's); its first line tells of it."""
    identity = {} if root or os.geteuid() != 0 else {"user": USER, "group": USER, "extra_groups": []}
    return subprocess.Popen(
        [PYTHON or sys.executable, "-s", "-m", "tests.sandbox.servants", wish, *host],
        cwd="/",
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "XDG_CACHE_HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        **identity,  # type: ignore[call-overload]
    )


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def look_around(folder: str, sock: socket.socket) -> None:
    """Try to open and to make files in the folder and elsewhere."""
    made = f"{folder}/made"
    told = errors_of(
        lambda: os.close(os.open(made, os.O_CREAT | os.O_WRONLY)),
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open("/tmp", os.O_RDONLY),
        lambda: os.open(f"{folder}-outside", os.O_CREAT | os.O_WRONLY),
        lambda: os.rename(made, f"{folder}-outside", src_dir_fd=0, dst_dir_fd=0),  # renameat: absolute paths
        lambda: os.stat("/etc/passwd"),
    )
    sock.send(told.encode())


def main() -> None:
    """Run the words of the command line."""
    if "deny" in sys.argv[2:]:
        linux.set_no_new_privileges()
        linux.install_filter(assemble())
    wish: Wish = "require" if sys.argv[1] == "require" else "auto"
    folders = [word.partition("=")[2] for word in sys.argv[2:] if word.startswith("folder=")]
    if folders:
        errand = Errand(partial(look_around, folders[0]), wish, folder=folders[0])
    else:
        errand = Errand(lambda _sock: time.sleep(1000), wish)  # it does not notice that the other end is gone
    isolation = errand.servant.isolation
    print(errand.servant.pid, isolation.level, isolation.note, flush=True)
    if folders:
        print(errand.hear(), flush=True)
    time.sleep(1000)


if __name__ == "__main__":
    main()
