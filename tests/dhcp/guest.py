"""Runs `krun_init.network.up` at the guest's end of a cable, and keeps what it leaves running, for a test's time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.dhcp.cable import Cable

TIMEOUT = 20


class Guest:
    """Files of the guest, words of its kernel; then `up`.

    :ivar readonly: whether the folder of resolv.conf is on a read-only file system.
    :ivar prefix: a command to start init by.
    :ivar interfaces: a folder in place of /sys/class/net.
    """

    def __init__(self, cable: Cable, folder: Path, library: Path) -> None:
        self.cable = cable
        self.resolver = folder / "etc" / "resolv.conf"
        self.resolver.parent.mkdir()
        self.devices = folder / "dev"
        self.devices.mkdir()
        self.words = {"KRUN_DHCP": "1"}
        self.promised = False
        self.command_line = "quiet\n"
        self.patience = 5.0
        self.interfaces: Path | None = None
        self.prefix: list[str] = []
        self.readonly = False
        self.elapsed = 0.0
        self.hostname: str | None = None
        self.log: list[tuple[int, str]] = []
        self._folder = folder
        self._library = library
        self._console = folder / "console"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> Guest:
        """Set the network up; returns when the boot would go on."""
        return self.start().wait()

    def start(self) -> Guest:
        """Begin."""
        (self._folder / "cmdline").write_text(self.command_line)
        special = {"interfaces": str(self.interfaces)} if self.interfaces is not None else {}
        spec = {
            "library": str(self._library),
            "source": str(Path(__file__).resolve().parents[2] / "src"),
            "places": {
                "resolver": str(self.resolver),
                "devices": str(self.devices),
                "command_line": str(self._folder / "cmdline"),
                "patience": self.patience,
                **special,
            },
            "words": self.words,
            "promised": self.promised,
            "readonly": str(self.resolver.parent) if self.readonly else None,
        }
        runner = str(Path(__file__).with_name("runner.py"))
        command = ["nsenter", f"--target={self.cable.guest}", "--net", "--mount"]
        command += ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *self.prefix]
        command += [sys.executable, "-I", "-S", runner, json.dumps(spec)]
        with open(self._console, "wb") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=console, bufsize=0
            )
        return self

    def wait(self) -> Guest:
        """Until it is set up."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the guest ended: {self.console}"
        told = json.loads(line)
        self.elapsed, self.hostname = told["elapsed"], told["hostname"]
        self.log = [(level, text) for level, text in told["log"]]
        return self

    def ask(self, question: str) -> Any:
        """What the runner knows: see there."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(question.encode() + b"\n")
        return json.loads(self._process.stdout.readline())

    @property
    def console(self) -> str:
        """All that went to the console."""
        return self._console.read_text()

    @property
    def warnings(self) -> list[str]:
        """What people were told, on the way or later."""
        return [text for level, text in self.log if level < 2] + [
            line.removeprefix("init: ") for line in self.console.splitlines()
        ]

    @property
    def resolv_conf(self) -> str | None:
        """The file's text, None if there is none."""
        return self.resolver.read_text() if self.resolver.exists() else None

    def until(self, condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Poll a condition.

        :raise AssertionError: it did not come true in time.
        """
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s: {what}; console: {self.console!r}"
            time.sleep(0.02)

    def until_address(self, address: str, timeout: float = TIMEOUT) -> None:
        """Wait until eth0 has exactly that address with its prefix."""
        self.until(lambda: self.cable.addresses() == [address], f"address {address}", timeout)

    def close(self) -> None:
        """End it, and all that it left running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
            for end in (self._process.stdin, self._process.stdout):
                if end is not None:
                    end.close()
