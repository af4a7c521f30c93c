"""The runtime as a caller drives it: bundles in a folder of their own, and nothing left there in the end."""

from __future__ import annotations

import array
import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.command import FIND, Pykrun, wait_until

LAUNCH = f"{FIND}; from pykrun.oci import main; sys.exit(main())"
APPLETS = """sh ls cat echo sleep id mount uname touch env hostname true false kill grep ps stty tty rm mkdir wc seq
pwd head tail ip nc df stat readlink dd md5sum printf""".split()  # noqa: SIM905
PATIENCE = 40
CONFIG: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "root": {"path": "rootfs"},
    "process": {"args": ["true"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": name} for name in ("pid", "mount", "ipc", "uts", "network")]},
}


def busybox() -> Path:
    """A program that holds a whole user land, without libraries."""
    found = shutil.which("busybox")
    assert found is not None, "apt-get install busybox-static"
    return Path(found)


class Runtime:
    """Runs `pykrun-oci` with a state folder, a cache and bundles of its own.

    Supervisors whose creator has ended are the test process' children, as they are conmon's: it adopts orphans.

    :param engine: the one that every container gets.
    """

    def __init__(self, pykrun: Pykrun, engine: str) -> None:
        self.pykrun = pykrun
        self.engine = engine
        self.root = pykrun.folder / "run" / "oci"
        self.bundles = pykrun.folder / "bundles"
        self.bundles.mkdir()
        self.names: list[str] = []

    # -- the command -------------------------------------------------------------------------------------------

    def command(self, *words: str | Path) -> list[str]:
        """The words that start it."""
        return [sys.executable, "-I", "-S", "-c", LAUNCH, "--root", str(self.root), *map(str, words)]

    def environment(self) -> dict[str, str]:
        """What a container's engine passes, which is next to nothing, and the engine."""
        ours = self.pykrun.environment()
        kept = {name: ours[name] for name in ("PATH", "XDG_CACHE_HOME", "TMPDIR", "HOME")}
        return {**kept, "PYKRUN_ENGINE": self.engine}

    def start_command(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start it, without waiting."""
        return subprocess.Popen(self.command(*words), env=self.environment(), **options)

    def __call__(self, *words: str | Path, stdin: Any = None, stdout: Any = None) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end; errors are captured, and output too unless it is to go elsewhere."""
        files = [stdin or subprocess.DEVNULL, stdout or subprocess.PIPE, subprocess.PIPE]
        stays = "create" in words[:2] or bool({"-d", "--detach"} & set(words))
        if stays and stdout is None:
            files[1] = subprocess.DEVNULL  # what stays would hold the pipe
        if stays or words[0] == "run":
            return self._with_errors_in_a_file(words, files[0], files[1])
        return subprocess.run(
            self.command(*words),
            env=self.environment(),
            stdin=files[0],
            stdout=files[1],
            stderr=files[2],
            timeout=PATIENCE,
            check=False,
        )

    def _with_errors_in_a_file(self, words: Any, stdin: Any, stdout: Any) -> subprocess.CompletedProcess[bytes]:
        path = self.bundles / "errors"
        with path.open("wb") as errors:
            process = self.start_command(*words, stdin=stdin, stdout=stdout, stderr=errors)
            output, _ = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, output, path.read_bytes())

    def must(self, *words: str | Path, **options: Any) -> str:
        """The output of a call that has to succeed."""
        result = self(*words, **options)
        assert result.returncode == 0, f"{words}: {result.stderr.decode()}"
        return (result.stdout or b"").decode()

    def refused(self, *words: str | Path) -> str:
        """The error of a call that has to fail, without its prefix."""
        result = self(*words)
        assert result.returncode == (255 if words[0] == "exec" else 1), f"{words}: {result}"
        error = result.stderr.decode()
        assert error.startswith("pykrun-oci: "), error
        assert error.count("\n") == 1, error
        return error.removeprefix("pykrun-oci: ").rstrip()

    # -- containers --------------------------------------------------------------------------------------------

    def bundle(self, name: str = "one", script: str | None = None, **changes: Any) -> Path:
        """Write a bundle whose root is busybox.

        :param script: for its shell; else `process` of the changes has the arguments.
        :param changes: members of config.json, merged into the usual ones; None takes one away.
        """
        folder = self.bundles / name
        programs = folder / "rootfs" / "bin"
        if not programs.exists():
            programs.mkdir(parents=True)
            shutil.copy(busybox(), programs / "busybox")
            for applet in APPLETS:
                (programs / applet).symlink_to("busybox")
            (folder / "rootfs" / "etc").mkdir()
        config = merged(copy.deepcopy(CONFIG), changes)
        if script is not None:
            config["process"]["args"] = ["sh", "-c", script]
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def create(self, name: str, bundle: Path, *options: str | Path, **streams: Any) -> None:
        """Create a container."""
        self.names.append(name)
        self.must("create", "--bundle", bundle, *options, name, **streams)

    def output(self, script: str | None = None, name: str = "one", **changes: Any) -> tuple[int, str, str]:
        """Run a container to its end: exit code, output, errors of the runtime and the container."""
        folder = self.bundle(name, script, **changes)
        self.names.append(name)
        result = self("run", "--bundle", folder, name)
        return result.returncode, result.stdout.decode(), result.stderr.decode()

    def state(self, name: str) -> dict[str, Any]:
        """What `state` says."""
        found: dict[str, Any] = json.loads(self.must("state", name))
        return found

    def status(self, name: str) -> str:
        """creating, created, running, paused or stopped."""
        status: str = self.state(name)["status"]
        return status

    def await_status(self, name: str, status: str) -> None:
        """Wait until it has come to that."""
        wait_until(lambda: self.status(name) == status, PATIENCE, f"{name} being {status}")

    def reap(self, pid: int) -> int:
        """Wait for a process as conmon does: its exit code, -n for a signal."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise AssertionError(f"process {pid} has not ended")

    def close(self) -> list[str]:
        """Delete what is there; tell what was left then."""
        for name in self.names:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self("delete", "--force", name)
        left = [f"file: {path}" for path in self.root.rglob("*")] if self.root.exists() else []
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.bundles)
        return left


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The members of `changes` over those of the other; None takes one away."""
    for name, value in changes.items():
        if value is None:
            config.pop(name, None)
        elif isinstance(value, dict) and isinstance(config.get(name), dict):
            merged(config[name], value)
        else:
            config[name] = value
    return config


class Console:
    """Listens for a terminal, as conmon does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "console"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(1)
        self._listener.settimeout(PATIENCE)
        self.master = -1

    def accept(self) -> int:
        """The terminal's master."""
        connection, _ = self._listener.accept()
        with connection:
            _name, ancillary, _, _ = connection.recvmsg(4096, 256)
        received = array.array("i")
        received.frombytes(ancillary[0][2])
        self.master = received[0]
        return self.master

    def read_until(self, text: bytes) -> bytes:
        """What comes until that text does."""
        os.set_blocking(self.master, False)
        seen = b""

        def has_come() -> bool:
            nonlocal seen
            with contextlib.suppress(BlockingIOError):
                seen += os.read(self.master, 4096)
            return text in seen

        try:
            wait_until(has_come, PATIENCE, f"{text!r}")
        except AssertionError:
            raise AssertionError(f"{text!r} did not come, but {seen!r}") from None
        return seen

    def close(self) -> None:
        """Give everything back."""
        self._listener.close()
        self.path.unlink()
        if self.master >= 0:
            os.close(self.master)


KILL = -signal.SIGKILL
