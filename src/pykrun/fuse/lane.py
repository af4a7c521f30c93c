"""A thread for requests that may take long, so that they do not hold up all others."""

from __future__ import annotations

import signal
from _queue import SimpleQueue
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable

_PATIENCE = 5.0
"""Seconds that the request which is being served has to end when the lane is closed."""


class SlowLane:
    """Serves requests one after the other in a thread, which is started with the first one.

    :param answer: serves one; what it raises ends nothing.
    """

    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self._answer = answer
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._running = allocate_lock()  # held by the thread
        self._started = False

    def put(self, request: bytes) -> None:
        """Serve a request soon; at once, and here, where there can be no thread."""
        if not self._started:
            self._running.acquire()
            try:
                start_new_thread(self._run, ())
            except RuntimeError:
                self._running.release()
                self._answer(request)
                return
            self._started = True
        self._queue.put(request)

    def close(self) -> bool:
        """End the thread; return False when it still serves something after a while."""
        if not self._started:
            return True
        self._queue.put(None)
        if not self._running.acquire(timeout=_PATIENCE):
            return False
        self._running.release()
        self._started = False
        return True

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the thread with the loop
        try:
            while (request := self._queue.get()) is not None:
                try:
                    self._answer(request)
                except OSError:
                    pass  # the descriptor refused the reply: the loop hears of it too
        finally:
            self._running.release()
