"""Guests for engine tests: busybox and a shell script in an initramfs of our own, no root file system at all."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykrun.engine as engines
from pykrun.engine import Ended, Engine, Running
from pykrun.kernel import cpio
from pykrun.machine import Machine
from pykrun.record import replace

BUSYBOX = Path("/bin/busybox")
SECONDS = {"uml": 30.0, "qemu": 90.0}
PROLOGUE = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /mnt /tmp
/bin/busybox --install -s /bin
mount -t proc none /proc
say() { echo "<1>$*" > /dev/kmsg; }
tell() { while IFS= read -r line; do say "$line"; done; }
"""
END = "\nsay THE END\nsync\nreboot -f\n"
WORDS = ("printk.devkmsg=on",)
"""The guests speak through the kernel's log, the one way that leads to every engine's console; it is not to be cut."""


def machine(engine: Engine, folder: Path, script: str, files: dict[str, bytes] | None = None) -> Machine:
    """A machine without shares that runs `script` as its init and reboots."""
    entries = [
        *(cpio.folder(name) for name in ("dev", "bin")),
        cpio.character_device("dev/console", 1, 3, 0o666),
        cpio.character_device("dev/kmsg", 1, 11),
        cpio.character_device("dev/null", 1, 3, 0o666),
        cpio.file("bin/busybox", BUSYBOX.read_bytes(), 0o755),
        cpio.file("init", (PROLOGUE + script + END).encode(), 0o755),
        *(cpio.file(name, data) for name, data in (files or {}).items()),
    ]
    path = folder / "guest.cpio"
    path.write_bytes(b"".join(cpio.archive(entries)))
    folder.chmod(0o755)
    path.chmod(0o644)
    return Machine(kernel=engine.kernel(), initramfs=path, shares=(), kernel_args=WORDS)


class Watch:
    """Reads a console as it goes."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.text = b""
        self._deadline = time.monotonic() + SECONDS[running.engine]

    def until(self, condition: Callable[[bytes], bool]) -> None:
        """Read until the console satisfies `condition` or the engine has ended."""
        poll = select.poll()
        poll.register(self.running.console, select.POLLIN)
        poll.register(self.running.pidfd, select.POLLIN)
        while not condition(self.text):
            ready = poll.poll(max(0.0, self._deadline - time.monotonic()) * 1000)
            assert ready, f"nothing more within the time; the console so far:\n{self.text.decode(errors='replace')}"
            if not self._read() and any(fd == self.running.pidfd for fd, _ in ready):
                return

    def seen(self, text: bytes) -> None:
        """Read until `text` was printed.

        :raise AssertionError: the engine ended before.
        """
        self.until(lambda console: text in console)
        assert text in self.text, self.text.decode(errors="replace")

    def ended(self) -> Ended:
        """Read until the engine has ended."""
        self.until(lambda console: False)
        while self._read():
            pass
        ended = self.running.reap()
        assert ended is not None
        return ended

    def _read(self) -> bool:
        try:
            chunk = os.read(self.running.console, 65536)
        except (BlockingIOError, ConnectionResetError):
            return False
        self.text += chunk
        return bool(chunk)


def run(engine: Engine, folder: Path, script: str, **more: Any) -> tuple[str, Ended]:
    """Run a guest to its end; return its console and how the engine ended."""
    files = more.pop("files", None)
    words = (*WORDS, *more.pop("kernel_args", ()))
    description = replace(machine(engine, folder, script, files), kernel_args=words, **more)
    running = engine.launch(description)
    try:
        watch = Watch(running)
        ended = watch.ended()
    finally:
        running.close()
    return plain(watch.text), ended


def plain(console: bytes) -> str:
    """A console's text without carriage returns and the kernel's time stamps."""
    return re.sub(r"(?m)^\[ *[0-9]+\.[0-9]+\] ", "", console.decode(errors="replace").replace("\r\n", "\n"))


def choose(name: str) -> Engine:
    """The engine of a test; QEMU by emulation, which there is everywhere."""
    return engines.choose(name, accel="tcg" if name == "qemu" else "auto")
