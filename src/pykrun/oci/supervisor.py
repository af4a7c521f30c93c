"""The process that stands for a container: under the pid of `--pid-file`, in its cgroup and network namespace."""

from __future__ import annotations

import _socket as socket
import os
import signal
from functools import partial

from pykrun.errors import PykrunError, UsageError
from pykrun.host import limits, linux
from pykrun.oci import cgroup, state
from pykrun.oci.bundle import Bundle, hook_document, read_bundle
from pykrun.oci.console import open_console
from pykrun.oci.control import Control
from pykrun.oci.hooks import run_hooks
from pykrun.oci.mounts import guest_mounts, hides, host_mounts
from pykrun.oci.program import check_program
from pykrun.oci.request import make_request
from pykrun.oci.rootfs import compose
from pykrun.oci.state import shown
from pykrun.oci.view import show
from pykrun.oci.wire import FAILED, OK
from pykrun.shim.wire import Receiver, send
from pykrun.supervisor import make_plan, run_plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Never

CONNECTION, LOCK = 3, 4
"""Where it finds the socket to who creates it, and the lock of the container's folder."""
SET_UP_FAILED = 125


def main() -> Never:
    """Become the container that the process at `CONNECTION` asks for; the exit status is the workload's."""
    os.closerange(LOCK + 1, 1 << 30)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    connection = socket.socket(fileno=CONNECTION)
    for descriptor in (CONNECTION, LOCK):
        os.set_inheritable(descriptor, False)
    order = _order(connection)
    code = SET_UP_FAILED
    try:
        code = Life(*order).run(connection)
    except Exception as error:
        message, hint = describe(error)
        try:
            send(connection, (FAILED, message, hint))
        except OSError:
            pass  # nobody waits for it
    os._exit(code)


def describe(error: Exception) -> tuple[str, str]:
    """What to say of an error, and what to do about it."""
    if isinstance(error, PykrunError):
        return error.message, error.hint
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename!r}" if error.filename else ""), ""
    return f"internal error: {error!r}", "please report it"


def _order(connection: socket.socket) -> tuple[str, str, str, str, bool]:
    receiver = Receiver(connection)
    while (taken := receiver.take()) is None:
        if receiver.ended:
            os._exit(SET_UP_FAILED)
        receiver.fetch()
    order: tuple[str, str, str, str, bool] = taken[0]  # type: ignore[assignment]  # both ends are ours
    return order


class Life:
    """A container from its making to its end.

    :param root: `--root`.
    :param name: its id.
    :param folder: the bundle.
    :param console: path of `--console-socket`, empty for none.
    :param systemd: cgroupsPath is of systemd's form.
    """

    def __init__(self, root: str, name: str, folder: str, console: str, systemd: bool) -> None:
        self._container = state.Container(root, name)
        self._folder = folder
        self._console = console
        self._systemd = systemd
        self._kept: dict[str, Any] = {}

    def run(self, connection: socket.socket) -> int:
        """Create it, tell who asked, wait for the start, run it; return the exit status."""
        container = self._container
        state.take(LOCK)
        bundle = read_bundle(self._folder)
        self._check(bundle)
        self._kept = {
            "ociVersion": "1.0.2",
            "id": container.name,
            "pid": os.getpid(),
            "status": state.CREATING,
            "bundle": bundle.folder,
            "rootfs": bundle.root,
            "created": _now(),
            "owner": "",
            "annotations": bundle.annotations,
        }
        container.write(self._kept)
        limits.allow_descriptors()
        limits.forbid_core_file()
        path = cgroup.path_of(bundle.cgroup, systemd=self._systemd)
        self._kept["pykrun"] = {"path": path, "cgroups": self._enter(bundle, path), **_later(bundle)}
        container.write(self._kept)  # now whoever removes it knows its cgroups
        os.mkdir(container.path("root"), 0o700)
        root = compose(bundle, container.path("root"), host_mounts(bundle))
        mounts = guest_mounts(bundle, root)
        assert bundle.process is not None, "checked"
        check_program(root, bundle.process, lambda path: hides(mounts, path))
        root.close()
        if bundle.process.terminal:
            open_console(self._console, bundle.process.size)
        for stage in ("prestart", "createRuntime", "createContainer"):
            run_hooks(stage, bundle.hooks.get(stage, ()), shown(self._kept))
        plan = make_plan(make_request(bundle, root.folder, mounts))
        control = Control(
            container.folder,
            partial(self._become, connection),
            partial(show, root.folder, container.path("root"), bundle.process.arguments),
        )
        try:
            outcome = run_plan(plan, control.door, control)
        except (PykrunError, OSError) as error:
            if self._kept["status"] == state.CREATING:
                raise
            message, hint = describe(error)
            if not control.failed(UsageError(message, hint)):
                _say(f"pykrun-oci: {message}\n")
            return SET_UP_FAILED
        heard = control.failed(UsageError(outcome.reason or f"it ended with {outcome.exit_code} before it ran"))
        control.door.close()
        if outcome.reason and not heard:
            lines = (f"pykrun-oci: {outcome.reason}", *(f"  | {line}" for line in outcome.console))
            _say("".join(f"{line}\n" for line in lines))
        return outcome.exit_code

    def _check(self, bundle: Bundle) -> None:
        if bundle.process is None:
            raise UsageError("config.json: process is missing: there must be a program to run")
        if bundle.process.terminal and not self._console:
            raise UsageError("config.json: process.terminal needs --console-socket, which gets the terminal")
        if not bundle.process.terminal and self._console:
            raise UsageError("--console-socket needs process.terminal in config.json")

    def _enter(self, bundle: Bundle, path: str) -> list[str]:
        """Go where the container is to be; return the folders of its cgroups.

        :param path: of the cgroups, below their mount points.
        """
        assert bundle.process is not None, "checked"
        folders = cgroup.enter(path, bundle.limits)
        if bundle.process.oom_score_adjust is not None:
            try:
                with open("/proc/self/oom_score_adj", "w") as file:
                    file.write(str(bundle.process.oom_score_adjust))
            except PermissionError:
                pass  # lower than it was is a right of its own
        if bundle.network not in ("host", "none"):
            try:
                namespace = os.open(bundle.network, os.O_RDONLY | os.O_CLOEXEC)
                linux.system_call("setns", namespace, linux.CLONE_NEWNET)
                os.close(namespace)
            except OSError as error:
                raise UsageError(f"cannot join network namespace {bundle.network!r}: {error.strerror}") from None
        return folders

    def _become(self, connection: socket.socket, status: str) -> None:
        self._kept["status"] = status
        self._container.write(self._kept)
        if status != state.CREATED:
            return
        try:
            send(connection, (OK,))
        except OSError:  # who wanted it is gone, and nobody has heard of it
            self._kept["status"] = state.CREATING
            self._container.write(self._kept)
            raise
        connection.close()


def _later(bundle: Bundle) -> dict[str, Any]:
    """What other verbs need of config.json, which may be changed or gone by then."""
    assert bundle.process is not None, "checked"
    document = bundle.process.document
    return {
        "process": {name: document[name] for name in ("user", "capabilities") if name in document},
        "late_hooks": {
            stage: [hook_document(hook) for hook in bundle.hooks[stage]]
            for stage in ("poststart", "poststop")
            if bundle.hooks.get(stage)
        },
    }


def _say(text: str) -> None:
    try:
        os.write(2, text.encode(errors="surrogateescape"))
    except OSError:
        pass


def _now() -> str:
    import time

    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000)) + f".{now % 1_000_000_000:09d}Z"
