"""The verb `create`: a supervisor in a process of its own, and what it has to say."""

from __future__ import annotations

import _socket as socket
import os
import sys

from pykrun.errors import EngineError, MissingError, UsageError
from pykrun.oci.options import FLAG, VALUE, Given, Table
from pykrun.oci.state import Container, write_atomically
from pykrun.oci.wire import answer
from pykrun.shim.wire import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TABLE: Table = {
    "bundle,b": (VALUE, "folder with config.json (.)"),
    "pid-file": (VALUE, "file that gets the supervisor's pid"),
    "console-socket": (VALUE, "Unix socket that gets the terminal, when config.json asks for one"),
    "no-pivot": (FLAG, "accepted: nothing is pivoted"),
    "no-new-keyring": (FLAG, "accepted: the guest's kernel has keyrings of its own"),
    "preserve-fds": (VALUE, "accepted: descriptors do not reach a VM"),
}
OPTIONS = {"create": ("[OPTION...] CONTAINER", TABLE)}
_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
_PROGRAM = (
    "import gc, sys; gc.disable(); sys.path.insert(0, sys.argv[1]); from pykrun.oci.supervisor import main; main()"
)
"""As a shim starts (`pykrun.shim.client`): isolated, without looking for garbage among modules."""


def create(root: str, settings: Given, options: Given) -> int:
    """Create a container; its supervisor stays."""
    make(root, settings, options)
    return 0


def make(
    root: str, settings: Given, options: Given, wait: Callable[[socket.socket], None] = lambda connection: None
) -> int:
    """Create the container; return its supervisor's pid.

    :param wait: returns when there is something to read; what it raises undoes all of it.
    """
    container = Container(root, options.only())
    lock = _make_folder(container)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pid = 0
    try:
        pid = _spawn(theirs.fileno(), lock)
        theirs.close()
        console = options.value("console-socket")
        order = (
            root,
            container.name,
            options.value("bundle") or ".",
            console,
            settings.flag("systemd-cgroup") or settings.value("cgroup-manager") == "systemd",
        )
        send(ours, order)
        wait(ours)
        answer(ours)
        if options.value("pid-file"):
            write_atomically(options.value("pid-file"), str(pid))
    except BaseException:
        _undo(container, pid)
        raise
    finally:
        theirs.close()
        ours.close()
        os.close(lock)
    return pid


def _make_folder(container: Container) -> int:
    try:
        return container.make()
    except UsageError:
        if not container.is_wreck():
            raise
        from pykrun.oci.lifetime import remove

        remove(container)
        return container.make()


def _undo(container: Container, pid: int) -> None:
    """Leave nothing of a container that could not be created."""
    if pid:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
        os.waitpid(pid, 0)
    from pykrun.oci.lifetime import remove

    remove(container)


def _spawn(connection: int, lock: int) -> int:
    """Start the supervisor, which inherits our standard streams, the connection, and the lock that it is to take.

    By name it could take that of a container that was made after this one was removed.

    :raise EngineError: the host can run no further process.
    """
    if not sys.executable:
        raise MissingError("this process does not know its Python interpreter (sys.executable is empty)")
    places = [(_above(connection), 3), (_above(lock), 4)]
    actions = [(os.POSIX_SPAWN_DUP2, high, place) for high, place in places]
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM, _FOLDER]
    try:
        return os.posix_spawn(
            sys.executable, words, os.environ, file_actions=actions, setsid=True, setsigmask=(), setsigdef=range(1, 32)
        )
    except OSError as error:
        raise EngineError(f"cannot start the supervisor's process: {error.strerror}") from None
    finally:
        for high, _ in places:
            os.close(high)


def _above(descriptor: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 5)
