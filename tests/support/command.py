"""Run the pykrun command as a user would, bounded in time, in folders of its own that must be empty afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIND = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})"
LAUNCH = f"{FIND}; from pykrun.cli import main; sys.exit(main())"
TERM_GRACE = 5.0


def cache_folder() -> Path:
    """The user's cache, which holds kernels and the blob and is shared by all tests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


class Pykrun:
    """Starts pykrun with a temporary, a home and a run-time folder that nobody else uses.

    The path is short, since a Unix socket's address has 108 bytes, and open to all, as /tmp is, since root's engine
    gives up its rights.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pk"))
        self.folder.chmod(0o755)
        for name, mode in (("tmp", 0o1777), ("home", 0o700), ("run", 0o700)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(mode)
        self.prelude = ""
        """Python to run first, in the command's own process: to change what it has no option for."""
        self._started: list[subprocess.Popen[bytes]] = []

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Our environment with the private folders, and `extra` over it."""
        return {
            **os.environ,
            "XDG_CACHE_HOME": str(cache_folder()),
            "TMPDIR": str(self.folder / "tmp"),
            "HOME": str(self.folder / "home"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            **(extra or {}),
        }

    def start(
        self, arguments: Sequence[str | bytes], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start `pykrun ARGUMENTS` in a session of its own; `options` are those of Popen.

        The caller ends it; what it forgets is killed and counts as a failure of the test.
        """
        command = [sys.executable, "-I", "-S", "-c", f"{FIND}\n{self.prelude}\n{LAUNCH}", *arguments]
        options.setdefault("start_new_session", True)
        process = subprocess.Popen(command, env=self.environment(env), **options)
        self.adopt(process)
        return process

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """End a process of the test's own too, and tell if it had to be done."""
        self._started.append(process)

    def __call__(
        self,
        arguments: Sequence[str | bytes],
        *,
        stdin: bytes = b"",
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `pykrun ARGUMENTS` to its end, with `stdin` as its input.

        :raise AssertionError: it did not end within `timeout` seconds (and was ended); shows what it had said.
        """
        pipe = subprocess.PIPE
        process = self.start(arguments, env=env, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            output, errors = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            output, errors = self._end(process)
            raise AssertionError(
                f"pykrun did not end within {timeout} s\nstdout: {output[-2000:]!r}\nstderr: {errors[-2000:]!r}"
            ) from None
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def close(self) -> list[str]:
        """End what is still running, remove the folders, and tell what was left in them, mounted or running.

        Only the folders are looked at: other VMs run on the same machine. (Sockets end with their processes; their
        names are files.)
        """
        left = []
        for process in self._started:
            if process.poll() is None:
                left.append(f"running: pykrun {process.args!r:.300}")
                self._end(process)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.swept(self.folder / "run")
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        left += [f"mount: {line}" for line in mounts if f"{self.folder}/" in line]
        left += [f"file: {path}" for name in ("tmp", "home", "run") for path in (self.folder / name).rglob("*")]
        shutil.rmtree(self.folder)
        return left

    @staticmethod
    def swept(folder: str | Path) -> list[str]:
        """What is in a runtime directory after `pykrun ps`, which removes what killed supervisors have left."""
        if os.listdir(folder):
            command = [sys.executable, "-I", "-S", "-c", LAUNCH, "ps", "--quiet"]
            environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=60)
        return [str(path) for path in Path(folder).rglob("*")]

    def _end(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            output, errors = process.communicate(timeout=TERM_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            try:
                output, errors = process.communicate(timeout=TERM_GRACE)
            except subprocess.TimeoutExpired as late:  # a descendant in another session still holds the pipe
                output, errors = late.stdout or b"", late.stderr or b""
        return output or b"", errors or b""


def wait_until(condition: Any, timeout: float = 10, what: str = "the condition") -> None:
    """Poll `condition()` until it is true.

    :raise AssertionError: it was not within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {timeout} s"
        time.sleep(0.01)
