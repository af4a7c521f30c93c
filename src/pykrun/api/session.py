"""One VM as its caller's process sees it: a shim, and a thread that listens to it and moves captured bytes.

Both faces, the blocking one and asyncio's, stand on this: what has to be waited for is a `concurrent.futures.Future`.
"""

from __future__ import annotations

import os
import selectors
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future

from pykrun.api.options import check_grace, check_signal
from pykrun.errors import EngineError, PykrunError, UsageError
from pykrun.request import Outcome, Request
from pykrun.shim import Ended, Failed, Named, Shim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

OnData = Callable[[bytes], None]
"""Takes what was read; b"" is the end."""

_CHUNK = 1 << 16
_live: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """Starts a VM at once.

    :param request: what is to be run; its descriptors may be closed when this returns.
    :param readers: descriptors to read to their end, and who takes what comes; they are closed here.
    :param feed: a descriptor to write to, and the bytes for it; closed here when they are written, or not taken.
    :ivar launched: done when the VM is on its way; has the error if there is none.
    :ivar name: what it is called from then on, empty where it is not listed.
    :ivar lock: held while something is said to the VM.
    :ivar ended: done when it is gone and everything that it wrote was read.
    :raise PykrunError: no supervisor could be started.
    """

    def __init__(
        self,
        request: Request,
        readers: dict[int, OnData] | None = None,
        feed: tuple[int, bytes | memoryview] | None = None,
    ) -> None:
        self.launched: Future[None] = Future()
        self.ended: Future[Outcome] = Future()
        for future in (self.launched, self.ended):
            future.set_running_or_notify_cancel()  # who waits may give up, which changes nothing here
        self.name = ""
        self.lock = threading.Lock()
        self._outcome: Outcome | None = None
        self._error: PykrunError | None = None
        self._closed = False
        self._open = 0
        self._asked: list[Callable[[], None]] = []
        self.begun = time.monotonic()
        self._shim = Shim()
        try:
            self._shim.launch(request)
            self._selector = selectors.DefaultSelector()
            self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except BaseException:
            self._shim.close()
            raise
        self._selector.register(self._shim, selectors.EVENT_READ, self._on_event)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
        for descriptor, take in (readers or {}).items():
            self._add_reader(descriptor, take)
        if feed is not None:
            self._add_feed(*feed)
        _live.add(self)
        self._thread = threading.Thread(target=self._run, name=f"pykrun-{self._shim.pid}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The supervisor's process."""
        return self._shim.pid

    def read(self, descriptor: int, take: OnData) -> None:
        """Read one more descriptor to its end; it is closed here."""
        self._ask(lambda: self._add_reader(descriptor, take), lambda: _drain(descriptor, take))

    def feed(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write to one more descriptor, and close it."""
        self._ask(lambda: self._add_feed(descriptor, data), lambda: os.close(descriptor))

    def visit(self) -> socket:
        """Return a new connection to the VM's door.

        :raise EngineError: the VM has ended.
        """
        with self.lock:
            if self._closed:
                raise EngineError("the VM has ended")
            return self._shim.visit()

    def watch(self, descriptor: int, on_ready: Callable[[], bool]) -> None:
        """Call a function whenever a descriptor is readable, from the thread, until it returns False."""

        def catch_up() -> None:
            while on_ready():
                time.sleep(0.001)

        self._ask(lambda: self._add_watch(descriptor, on_ready), catch_up)

    def send_signal(self, number: int) -> None:
        """Send the workload a signal.

        :raise UsageError: there is no such signal.
        """
        number = check_signal(number)
        with self.lock:
            if not self._closed:
                self._shim.send_signal(number)

    def stop(self, grace: float | None) -> None:
        """Ask for an orderly end.

        :raise UsageError: the grace is no number of seconds.
        """
        grace = check_grace(grace)
        with self.lock:
            if not self._closed:
                self._shim.stop(grace)

    def kill(self) -> None:
        """End the VM now.

        Before it is launched the shim may be pulling or unpacking an image, and reads nothing: it is ended itself, and
        the run has failed.
        """
        with self.lock:
            if self._closed:
                return
            if self.launched.done():
                self._shim.end()
            else:
                self._shim.kill()

    def check_may_wait(self) -> None:
        """Refuse to wait where nothing can come.

        :raise UsageError: we are in a function that was called with a line.
        """
        if threading.current_thread() is self._thread:
            raise UsageError("a function that is called with lines cannot wait for its VM", "kill() and stop() do not")

    def _ask(self, action: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Have the thread do something, or do `otherwise` when it is gone."""
        with self.lock:
            if not self._closed:
                self._asked.append(action)
                os.write(self._waker, b"x")
                return
        otherwise()

    def _run(self) -> None:
        while not self._is_over():
            for key, _ in self._selector.select():
                key.data()
        self._finish()

    def _is_over(self) -> bool:
        if self._open or not (self._outcome or self._error):
            return False
        with self.lock:
            if self._asked:
                return False
            self._closed = True
            return True

    def _finish(self) -> None:
        self._shim.close()
        self._selector.close()
        for descriptor in (self._wake, self._waker):
            os.close(descriptor)
        _live.discard(self)
        error = self._error
        if not self.launched.done():
            self.launched.set_exception(error or EngineError("the VM ended before it was launched"))
        if error is not None:
            self.ended.set_exception(error)
        elif self._outcome is not None:
            self.ended.set_result(self._outcome)

    def _on_event(self) -> None:
        with self.lock:
            event = self._shim.receive(0)
        while event is not None:
            match event:
                case Named(name):
                    self.name = name
                    self.launched.set_result(None)
                case Ended(outcome):
                    self._outcome = outcome
                case Failed():
                    self._error = event.error()
            if isinstance(event, Ended | Failed):
                self._selector.unregister(self._shim)
                return
            with self.lock:
                event = self._shim.receive(0)

    def _on_wake(self) -> None:
        os.read(self._wake, 512)
        with self.lock:
            asked, self._asked = self._asked, []
        for action in asked:
            action()

    def _add_reader(self, descriptor: int, take: OnData) -> None:
        self._open += 1

        def on_ready() -> None:
            try:
                data = os.read(descriptor, _CHUNK)
            except OSError:
                data = b""
            if not data:
                self._remove(descriptor)
            try:
                take(data)
            except BaseException:  # the caller's function, whose mistake must not be the end of who calls it
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self._thread)))

        self._selector.register(descriptor, selectors.EVENT_READ, on_ready)

    def _add_watch(self, descriptor: int, on_ready: Callable[[], bool]) -> None:
        self._open += 1

        def check() -> None:
            # Not known to the selector when it is closed: its number may be another one's at once.
            self._selector.unregister(descriptor)
            if on_ready():
                self._selector.register(descriptor, selectors.EVENT_READ, check)
            else:
                self._open -= 1

        self._selector.register(descriptor, selectors.EVENT_READ, check)

    def _add_feed(self, descriptor: int, data: bytes | memoryview) -> None:
        os.set_blocking(descriptor, False)  # our end of a pipe that we have made
        left = memoryview(data)
        if not left:
            os.close(descriptor)
            return
        self._open += 1

        def on_ready() -> None:
            nonlocal left
            try:
                left = left[os.write(descriptor, left[:_CHUNK]) :]
            except BlockingIOError:
                return
            except OSError:  # nobody reads any more, which is not the caller's mistake (as in subprocess)
                left = left[:0]
            if not left:
                self._remove(descriptor)

        self._selector.register(descriptor, selectors.EVENT_WRITE, on_ready)

    def _remove(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        self._open -= 1

    def forget(self) -> None:
        """In the child of a fork: the VM is the parent's, and must end with it.

        The thread is not here, and may have held any lock. The selector is the parent's too: closing is all we may do.
        """
        self.lock = threading.Lock()
        self._closed = True
        self._shim.forget()
        streams = [key.fd for key in self._selector.get_map().values() if key.fileobj not in (self._shim, self._wake)]
        self._selector.close()
        for descriptor in (*streams, self._wake, self._waker):
            os.close(descriptor)
        self.launched, self.ended = Future(), Future()
        for future in (self.launched, self.ended):
            future.set_exception(EngineError("this VM belongs to the process that started it", "we are a fork of it"))


def _drain(descriptor: int, take: OnData) -> None:
    """Read what a VM that is gone has left in a pipe."""
    with open(descriptor, "rb", buffering=0) as stream:
        while data := stream.read(_CHUNK):
            take(data)
    take(b"")


def _forget_all() -> None:
    for session in list(_live):
        session.forget()
    _live.clear()


os.register_at_fork(after_in_child=_forget_all)
