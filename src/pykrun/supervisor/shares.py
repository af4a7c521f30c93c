"""The shared directories of a VM: a process for each, which can reach that directory and nothing else.

The process is forked before this one has imported what a file server needs, and imports that itself, while this one
goes on with the console: the kernel waits for whichever comes last.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from pykrun.errors import PykrunError
from pykrun.loop import IN, Loop
from pykrun.record import record
from pykrun.sandbox.servant import Servant, Service, serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.engine import Endpoint
    from pykrun.sandbox import Wish
    from pykrun.share import Share

_SERVER = "pykrun.supervisor.share_server"


@record(frozen=True, slots=True, kw_only=True)
class Boot:
    """What makes a share a VM's root.

    :param init: a descriptor of the init, None if the share has an init of its own.
    :param start: the start data's bytes.
    """

    init: int | None
    start: bytes


class ShareServers:
    """What serves the shared directories.

    :param wish: `require` refuses a server that is not isolated.
    :param on_end: called with a reason when a server has failed.
    :param on_exit_code: called with what the guest reports as its exit code, by the root's ioctl.
    """

    def __init__(
        self, loop: Loop, wish: Wish, on_end: Callable[[str], None], on_exit_code: Callable[[int], None]
    ) -> None:
        self._loop = loop
        self._wish = wish
        self._on_end = on_end
        self._on_exit_code = on_exit_code
        self._stack = ExitStack()
        self._servants: list[Servant] = []
        self._codes = -1

    def root(self, engine: str, endpoint: Endpoint, tag: str, share: Share, init: str | None, start: bytes) -> None:
        """Serve the root: the share with an init and the start data.

        :param init: path of the init, None if the share has one of its own.
        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the host can run no further process.
        """
        self._codes, codes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stack.callback(os.close, self._codes)
        self._loop.add(self._codes, IN, lambda _events: self.collect())
        self._stack.callback(self._loop.remove, self._codes)
        opened = None if init is None else os.open(init, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._start(engine, endpoint, tag, share, "root", Boot(init=opened, start=start), codes)
        finally:
            os.close(codes)
            if opened is not None:
                os.close(opened)

    def volume(self, engine: str, endpoint: Endpoint, tag: str, share: Share) -> None:
        """Serve a further directory.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the host can run no further process.
        """
        self._start(engine, endpoint, tag, share, tag, None, -1)

    def _start(
        self, engine: str, endpoint: Endpoint, tag: str, share: Share, name: str, boot: Boot | None, codes: int
    ) -> None:
        more = () if boot is None else tuple(fd for fd in (boot.init, codes) if fd is not None)
        service = Service(
            name=f"pykrun {name}"[:15],
            prepare=partial(_prepare, share),
            serve=partial(_serve, engine, endpoint, tag, share, boot, codes),
            descriptors=(endpoint.fileno(), *more, *share.descriptors()),
            folder=share.folder,
        )
        servant = serve(service, self._wish)
        self._stack.callback(servant.close)
        self._servants.append(servant)
        share.root.close()  # its files are the server's now
        self._loop.add(servant.pidfd, IN, partial(self._ended, servant, f"the server of {share.folder!r}"))
        self._stack.callback(self._loop.remove, servant.pidfd)
        endpoint.close()

    def collect(self) -> None:
        """Take the exit codes that were reported so far."""
        if self._codes < 0:
            return
        try:
            data = os.read(self._codes, 4096)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove(self._codes)
        for code in data:
            self._on_exit_code(code)

    def _ended(self, servant: Servant, what: str, _events: int) -> None:
        reason = servant.reap()
        if reason is None:
            return
        self._loop.remove(servant.pidfd)
        if reason:
            self._on_end(f"{what}: {reason}")

    @property
    def isolation(self) -> str:
        """How isolated the servers are, for people: each kind once."""
        try:
            return "; ".join(dict.fromkeys(servant.isolation.description for servant in self._servants))
        except PykrunError as error:
            return str(error)

    def close(self) -> None:
        """End the servers."""
        self._stack.close()


def _prepare(share: Share) -> None:
    share.prepare()
    importlib.import_module(_SERVER)


def _serve(engine: str, endpoint: Endpoint, tag: str, share: Share, boot: Boot | None, codes: int) -> None:
    importlib.import_module(_SERVER).serve_share(engine, endpoint, tag, share, boot, codes)
