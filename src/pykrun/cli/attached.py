"""A command in a VM, as this process stands for it: its streams, its signals, its terminal, its exit status."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself would import enum
import os
from collections.abc import Sequence

from pykrun.host.terminal import Escape, Terminal
from pykrun.loop import IN, OUT, Loop
from pykrun.signals import FORWARDED, Signals
from pykrun.vms import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

LOST = 128 + signal.SIGKILL
"""The exit status when the VM is gone."""
ESCAPED = 130
_CHUNK = 4096


class Attached:
    """Runs one command. Use as a context.

    The VM's supervisor reads and writes the streams itself. Only a terminal's keys go through this process, so that
    they come to whoever has the terminal's foreground.

    :param streams: descriptors of input, output and errors; None for one that is closed.
    :param terminal: the command has a terminal.
    """

    def __init__(self, streams: Sequence[int | None], *, terminal: bool) -> None:
        self._streams = list(streams)
        self._terminal = terminal
        self._screen = Terminal(streams[0], streams[1])
        self._loop = Loop()
        self._keys: _Keys | None = None
        self._started = False
        self._heard: set[int] = set()
        self._status: int | None = None
        self._client: Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.restore()
        if self._client is not None:
            self._client.close()
        if self._keys is not None:
            self._keys.close()
        self._loop.close()

    @property
    def window(self) -> tuple[int, int] | None:
        """Rows and columns of the terminal, None when there is none or it does not know."""
        return self._screen.size()

    @property
    def has_started(self) -> bool:
        """Whether the command ran."""
        return self._started

    def run(self, client: Client, process: dict[str, Any]) -> int:
        """Run it to its end; return its exit status.

        :param client: a connection to the VM's door, closed here.
        :raise PykrunError: it was refused.
        """
        self._client = client
        signals = Signals(self._loop, FORWARDED, self._on_signal)
        try:
            self._ask(client, process)
            self._loop.add(client.fileno(), IN, lambda _: self._on_message(client))
            self._loop.run()
        finally:
            signals.close()
        assert self._status is not None
        return self._status

    def _ask(self, client: Client, process: dict[str, Any]) -> None:
        given = list(self._streams)
        if self._terminal:
            given[2] = None
        if given[0] is not None and os.isatty(given[0]):
            escape = Escape(self._escape) if self._terminal else None
            self._keys = _Keys(self._loop, given[0], escape)
            given[0] = self._keys.reading
        client.ask(
            "exec",
            [stream for stream in given if stream is not None],
            process=process,
            streams=[stream is not None for stream in given],
        )
        if self._keys is not None:
            self._keys.start()

    def _on_message(self, client: Client) -> None:
        while self._status is None and (message := client.receive(0)) is not None:
            match message.get("event"):
                case "started":
                    self._begin()
                case "ended":
                    self._end(int(message.get("code", LOST)), str(message.get("reason", "")))
                case "gone":
                    self._end(LOST, "the VM is gone: its supervisor ended")

    def _begin(self) -> None:
        self._started = True
        if self._terminal:
            self._screen.raw()  # not before: until then Ctrl-C is ours
            self._resize()  # it may have changed meanwhile

    def _end(self, status: int, reason: str = "") -> None:
        self._status = status
        self._loop.stop()
        self._screen.restore()
        if reason and self._streams[2] is not None:
            try:
                os.write(self._streams[2], f"pykrun: {reason}\n".encode(errors="surrogateescape"))
            except OSError:
                pass

    def _escape(self) -> None:
        self._end(ESCAPED, "ended by ^] ^] ^]")

    def _on_signal(self, number: int) -> None:
        """Hand it on; a second INT or TERM, or one before the command runs, ends it all."""
        assert self._client is not None
        if number == signal.SIGWINCH and self._terminal:
            self._resize()
            return
        deadly = number in (signal.SIGINT, signal.SIGTERM)
        if deadly and (number in self._heard or not self._started):
            self._end(128 + number)
        elif self._started:
            self._client.ask("signal", number=number)
        self._heard.add(number)

    def _resize(self) -> None:
        if self._client is not None and (size := self._screen.size()):
            self._client.ask("resize", rows=size[0], columns=size[1])


class _Keys:
    """Moves what is typed at a terminal into a pipe.

    :ivar reading: the pipe's other end, closed by `start`.
    """

    def __init__(self, loop: Loop, terminal: int, escape: Escape | None) -> None:
        self.reading, self._writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writing, False)
        self._loop = loop
        self._terminal = terminal
        self._escape = escape
        self._held = b""

    def start(self) -> None:
        """Begin; the other side has its end of the pipe."""
        os.close(self.reading)
        self.reading = -1
        self._loop.add(self._terminal, IN, self._on_keys)
        self._loop.add(self._writing, 0, lambda _: self._end())  # nobody reads it any more

    def _on_keys(self, _events: int) -> None:
        try:
            keys = os.read(self._terminal, _CHUNK)
        except OSError:  # hung up
            keys = b""
        if not keys:
            self._end()
            return
        if self._escape is not None:
            self._escape([memoryview(keys)], len(keys))
        self._held = keys
        self._write(0)

    def _write(self, events: int) -> None:
        if self._writing < 0:
            return
        try:
            self._held = self._held[os.write(self._writing, self._held) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end()
            return
        self._loop.remove(self._writing)
        if self._held:
            self._loop.remove(self._terminal)
            self._loop.add(self._writing, OUT, self._write)
        else:
            self._loop.add(self._writing, 0, lambda _: self._end())
            if events:
                self._loop.add(self._terminal, IN, self._on_keys)

    def _end(self) -> None:
        """The terminal has no more, or nobody wants it."""
        self._loop.remove(self._terminal)
        if self._writing >= 0:
            self._loop.remove(self._writing)
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """Stop, and give the pipe back."""
        self._end()
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1
