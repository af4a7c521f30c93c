"""`pykrun fs`: one share on a vhost-user socket, for virtual machines that come and go."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial

from pykrun.fileserver.attached import Attached
from pykrun.fileserver.keeper import Keeper, Sandbox
from pykrun.fileserver.link import CONNECTION, Link
from pykrun.fileserver.log import ERROR, INFO, WARN, Log, tell_manager
from pykrun.fileserver.socket_file import SocketFile, given_socket, is_listening
from pykrun.share import Share
from pykrun.vhost_user import AllConnections, hung_up, peer


class Daemon(Keeper):
    """Serves one front end at a time: refuses who comes meanwhile, waits for the next one afterwards.

    :param tag: the name by which guests mount it, for front ends that ask the back end (QEMU and cloud-hypervisor have
        it from their own command line).
    :param door: where to listen: the path of a socket and the group that may connect to it, or the number of an open
        descriptor: a listening socket, or a connected one.
    :param once: end when the first front end goes.
    """

    def __init__(
        self,
        share: Share,
        log: Log,
        *,
        tag: str,
        door: tuple[str, str | None] | int,
        once: bool = False,
        sandbox: Sandbox = "auto",
        stats: bool = False,
    ) -> None:
        super().__init__(share, log, sandbox=sandbox, stats=stats)
        self._door = door
        self._tag = tag
        self._once = once
        self._connection: socket.socket | None = None
        self._peer = ""
        self._number = 0
        self._entrance = ExitStack()

    def start(self) -> None:
        """Listen."""
        if isinstance(self._door, int):
            given, self._where = given_socket(self._door), f"descriptor {self._door}"
        else:
            file = SocketFile(*self._door)
            self.stack.callback(file.close)
            given, self._where = file.socket, file.path
        self._given = given
        self.serve(partial(_serve, tag=self._tag))
        self.stack.enter_context(self._entrance)

    def on_ready(self) -> None:
        """Let front ends in."""
        if is_listening(self._given):
            self._entrance.callback(AllConnections(self.loop, self._given, self._connected).close)
            self.log(INFO, f"listening on {self._where}")
        else:
            self._once = True
            self._take(self._given)
        tell_manager("READY=1")

    def on_connection_ended(self, reason: str) -> None:
        """Wait for the next front end, or end."""
        number, _, text = reason.partition(" ")
        if number == str(self._number):  # else that of one before it, whose end was seen here first
            self._gone(text)

    def on_stop(self) -> None:
        """Take no further front end, and end."""
        self._entrance.close()
        self.quit()

    def _connected(self, connection: socket.socket) -> None:
        if self._connection is not None and hung_up(self._connection):
            self._gone("")  # who comes right behind it is not to be refused because its end is still on its way here
        if self._connection is not None:
            self.log(WARN, f"refused {peer(connection)}: one front end at a time, and {self._peer} is connected")
            connection.close()
        else:
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        self._number += 1
        self._connection, self._peer = connection, peer(connection)
        self.log(INFO, f"{self._peer} connected")
        self.link.send(CONNECTION, str(self._number), descriptor=connection.fileno(), wait=True)

    def _gone(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.close()
        if reason:
            self.log(ERROR, f"{self._peer}: {reason}; it was disconnected")
        else:
            self.log(INFO, f"{self._peer} disconnected")
        if self._once:
            self.failed = self.failed or bool(reason)
            self.on_stop()


def _serve(share: Share, link: Link, *, tag: str) -> None:
    """The life of the process that serves."""
    Attached(share, link, tag).run()
