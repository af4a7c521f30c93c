"""A machine made of namespaces: init is PID 1 in there, with its own root in memory; socket pairs are its ports."""

from __future__ import annotations

import base64
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<IHHI")
HELLO, STARTED, COUNTS, EXIT, LOG, CLOSE, DONE = range(0x01, 0x08)
WELCOME, ACK, DRAINING, SIGNAL, STOP, RESIZE, STDIN_END, CLOSE_OUTPUT, TIME = range(0x101, 0x10A)
SPEC, EXEC, INPUT, CREDIT = range(0x201, 0x205)
OUTPUT, INPUT_CREDIT = 0x211, 0x212
BUSYBOX = "/bin/busybox"
RELAY = ("krun-control", "krun-stdin", "krun-stdout", "krun-stderr")
REBOOTED = -signal.SIGHUP
"""How a namespace's PID 1 ends when it calls reboot(RB_AUTOBOOT) (pid_namespaces(7))."""


def frame(kind: int, body: bytes = b"", process: int = 0) -> bytes:
    return HEADER.pack(len(body), kind, 0, process) + body


class Machine:
    """Files of the root, start data, ports; then `run`.

    :ivar network: a process whose network namespace it gets, in place of one of its own.
    :ivar readonly: the root is read-only.
    """

    def __init__(self, folder: Path, library: Path) -> None:
        self.files: dict[str, tuple[bytes, int]] = {"/bin/busybox": (Path(BUSYBOX).read_bytes(), 0o755)}
        self.links = {f"/bin/{name}": "busybox" for name in ("sh", "cat", "sleep", "head", "yes", "dd", "id", "env")}
        self.start: dict[str, Any] | None = {"version": 1, "streams": "relay", "env": [], "grace_ms": 2000}
        self.ports: list[str] = list(RELAY)
        self.argv = ["/init.krun"]
        self.environ = {"HOME": "/", "TERM": "linux"}
        self.patience = 0.3
        self.started_by_kernel = True
        self.terminal = "/dev/hvc0"
        self.inherit: tuple[int, ...] = ()
        self.network: int | None = None
        self.readonly = False
        self.under: list[str] = []
        """A command to run it all under, strace say."""
        self.acknowledge = True
        self.stdin = b""
        self.stdin_end = True
        self.read_outputs = True
        self.room = 0
        """Bytes, or nearly, that a port takes while nobody reads; 0: as many as sockets usually do."""
        self.busy: list[str] = []
        """Ports that somebody has open already."""
        self.frames: list[tuple[int, bytes]] = []
        self.further: dict[int, list[tuple[int, bytes]]] = {}
        """The frames of each further command."""
        self.output: dict[str, bytearray] = {}
        self.console = b""
        self.returncode = 0
        self._library = library
        self._root = folder / "root"
        self._root.mkdir()
        self._sockets: dict[str, socket.socket] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._condition = threading.Condition()

    # -- describing --------------------------------------------------------------------------------------------

    def shell(self, script: str, *words: str) -> Machine:
        """Run a shell script as the workload."""
        assert self.start is not None
        self.start["init"] = "/bin/sh"
        self.start["argv"] = ["-c", script, "sh", *words]
        return self

    def text(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """One more file in the root."""
        self.files[path] = (content if isinstance(content, bytes) else content.encode(), mode)

    # -- running -----------------------------------------------------------------------------------------------

    def boot(self) -> Machine:
        """Start it and return."""
        files = dict(self.files)
        if self.start is not None:
            document = {**self.start, "ports": self.start.get("ports", self.ports)}
            files["/.krun_start.json"] = (json.dumps(document).encode(), 0o400)
        guest_ends = {name: self._make_port(name) for name in self.ports}
        spec = {
            "library": str(self._library),
            "source": str(Path(__file__).resolve().parents[2] / "src"),
            "root": str(self._root),
            "files": {path: (base64.b64encode(data).decode(), mode) for path, (data, mode) in files.items()},
            "links": self.links,
            "ports": {name: end.fileno() for name, end in guest_ends.items()},
            "argv": self.argv,
            "environ": self.environ,
            "patience": self.patience,
            "started_by_kernel": self.started_by_kernel,
            "terminal": self.terminal,
            "busy": self.busy,
            "readonly": self.readonly,
        }
        spec_file = self._root.parent / "spec.json"
        spec_file.write_text(json.dumps(spec))
        runner = str(Path(__file__).with_name("pid1.py"))
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]
        if self.network is None:
            command.append("--net")
        else:
            command = ["nsenter", f"--target={self.network}", "--net", *command]
        self._process = subprocess.Popen(
            [*self.under, *command, sys.executable, "-I", "-S", runner, str(spec_file)],
            pass_fds=[*self.inherit, *(end.fileno() for end in guest_ends.values())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for end in guest_ends.values():
            end.close()
        self._start_host()
        return self

    def run(self, timeout: float = 20) -> Machine:
        """Start it and wait until it has rebooted."""
        return self.boot().wait(timeout)

    def wait(self, timeout: float = 20) -> Machine:
        """Wait until PID 1 has ended."""
        assert self._process is not None
        try:
            self.console, _nothing = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.console, _nothing = self._process.communicate()
            raise AssertionError(f"init hangs; console: {self.console!r}, frames: {self.frames}") from None
        self.returncode = self._process.returncode
        for thread in self._threads:
            thread.join(5)
        return self

    def close(self) -> None:
        """End what is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        for end in self._sockets.values():
            end.close()
        for thread in self._threads:
            thread.join(5)
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    # -- the host's side ---------------------------------------------------------------------------------------

    def send(self, kind: int, body: bytes = b"", process: int = 0) -> None:
        """A frame to the guest."""
        self._sockets["krun-control"].sendall(frame(kind, body, process))

    def send_raw(self, data: bytes) -> None:
        """Bytes that may be no frame."""
        self._sockets["krun-control"].sendall(data)

    def feed(self, data: bytes) -> None:
        """Bytes for the workload's standard input."""
        self._sockets["krun-stdin"].sendall(data)

    def talk(self, name: str, data: bytes) -> None:
        """Bytes into any port."""
        self._sockets[name].sendall(data)

    def close_port(self, name: str) -> None:
        """The host is gone from that port."""
        self._sockets[name].shutdown(socket.SHUT_RDWR)

    def drain_port(self, name: str, seconds: float) -> None:
        """Read a port from now on, where `read_outputs` is off."""
        time.sleep(seconds)
        self._threads.append(threading.Thread(target=self._collect, args=(name,)))
        self._threads[-1].start()

    def wait_for(self, kind: int, timeout: float = 10) -> bytes:
        """The body of the first frame of that type, once it came."""
        with self._condition:
            found = self._condition.wait_for(lambda: self.bodies(kind), timeout)
        assert found, f"frame {kind:#x} did not come; frames: {self.frames}"
        return self.bodies(kind)[0]

    def wait_until(self, condition: Callable[[], Any], timeout: float = 10) -> None:
        """Until the condition holds, which is looked at after each frame."""
        with self._condition:
            found = self._condition.wait_for(condition, timeout)
        assert found, f"frames: {self.frames}; of commands: {self.further}"

    def wait_output(self, name: str, wanted: bytes, timeout: float = 10) -> None:
        """Until the port has brought that text."""
        with self._condition:
            found = self._condition.wait_for(lambda: wanted in self.output[name], timeout)
        assert found, f"{name} brought {bytes(self.output[name])!r}, not {wanted!r}; frames: {self.frames}"

    def bodies(self, kind: int) -> list[bytes]:
        """The bodies of all frames of that type so far."""
        return [body for other, body in self.frames if other == kind]

    @property
    def stdout(self) -> bytes:
        return bytes(self.output["krun-stdout"])

    @property
    def stderr(self) -> bytes:
        return bytes(self.output["krun-stderr"])

    @property
    def exit(self) -> tuple[int, int, str]:
        """Code, signal and reason of the one EXIT frame."""
        assert len(self.bodies(EXIT)) == 1, f"console: {self.console!r}, frames: {self.frames}"
        (body,) = self.bodies(EXIT)
        return (*struct.unpack_from("<ii", body), body[8:].decode())

    @property
    def logs(self) -> str:
        return "\n".join(body[1:].decode() for body in self.bodies(LOG))

    def _received(self) -> tuple[int, int]:
        return len(self.output.get("krun-stdout", b"")), len(self.output.get("krun-stderr", b""))

    def _make_port(self, name: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        if self.room:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.room)
        self._sockets[name] = ours
        self.output[name] = bytearray()
        return theirs

    def _start_host(self) -> None:
        targets = []
        if "krun-control" in self._sockets:
            targets.append(threading.Thread(target=self._serve_control))
        if self.read_outputs:
            for name in ("krun-stdout", "krun-stderr", "krun-timesync"):
                if name in self._sockets:
                    targets.append(threading.Thread(target=self._collect, args=(name,)))
        if "krun-stdin" in self._sockets:
            targets.append(threading.Thread(target=self._serve_stdin))
        self._threads = targets
        for thread in targets:
            thread.start()

    def _collect(self, name: str) -> None:
        end = self._sockets[name]
        while data := _receive(end):
            with self._condition:
                self.output[name] += data
                self._condition.notify_all()

    def _serve_stdin(self) -> None:
        try:
            self._sockets["krun-stdin"].sendall(self.stdin)
            if self.stdin_end and "krun-control" in self._sockets:
                self.send(STDIN_END, struct.pack("<Q", len(self.stdin)))
        except OSError:
            pass

    def _serve_control(self) -> None:
        received = bytearray()
        while data := _receive(self._sockets["krun-control"]):
            received += data
            while len(received) >= HEADER.size:
                length, kind, reserved, process = HEADER.unpack_from(received)
                if len(received) < HEADER.size + length:
                    break
                assert reserved == 0
                body = bytes(received[HEADER.size : HEADER.size + length])
                del received[: HEADER.size + length]
                if process:
                    with self._condition:
                        self.further.setdefault(process, []).append((kind, body))
                        self._condition.notify_all()
                else:
                    self._on_frame(kind, body)

    def _on_frame(self, kind: int, body: bytes) -> None:
        with self._condition:
            self.frames.append((kind, body))
            self._condition.notify_all()
        if kind == HELLO:
            self.send(WELCOME, struct.pack("<HHI", 1, 0, 0))
        if kind == COUNTS and self.acknowledge:
            counts = struct.unpack("<QQ", body)
            with self._condition:
                self._condition.wait_for(
                    lambda: counts == self._received(),
                    10,
                )
            self.send(ACK)
        if kind == DONE and self.acknowledge:
            self.send(ACK)


def _receive(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 16)
    except OSError:
        return b""
