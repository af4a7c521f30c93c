"""The distribution's containerd in an enclave, driven by its own client."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.support.command import wait_until
from tests.support.enclave import Enclave, archive
from tests.support.podman import said

ADDRESS = "/run/containerd/containerd.sock"
CONFIGURATION = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [{disabled}]
[grpc]
address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
"""
CRI = "grpc.v1.cri"
DISABLED = (
    CRI,
    "snapshotter.v1.btrfs",
    "snapshotter.v1.zfs",
    "snapshotter.v1.aufs",
    "snapshotter.v1.devmapper",
)


class Containerd:
    """A daemon with one image, and an enclave of its own.

    :param cri: more of its configuration, for its CRI plugin, which is not loaded else.
    """

    def __init__(self, cri: str = "") -> None:
        self.enclave = Enclave()
        configuration = self.enclave.folder / "containerd.toml"
        disabled = ", ".join(f'"io.containerd.{plugin}"' for plugin in DISABLED if plugin != CRI or not cri)
        configuration.write_text(CONFIGURATION.format(disabled=disabled, address=ADDRESS) + cri)
        self.log = self.enclave.folder / "containerd.log"
        with self.log.open("wb") as log:
            self._daemon = self.enclave.start(["containerd", "-c", configuration], stdout=log, stderr=log)
        wait_until(lambda: self("version").returncode == 0, 30, "containerd")
        self.must("image", "import", archive(self.enclave.folder / "image.tar"))
        self.enclave.settle()

    def words(self, *words: str | Path) -> list[str | Path]:
        """The command line; the namespace's name is that of its control groups, too."""
        return ["ctr", "--address", ADDRESS, "--namespace", self.enclave.cgroup, *words]

    def __call__(
        self, *words: str | Path, stdin: bytes = b"", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return self.enclave.run(self.words(*words), stdin=stdin, timeout=timeout)

    def must(self, *words: str | Path, **options: Any) -> str:
        """The output of a call that has to succeed, without the last line's end."""
        result = self(*words, **options)
        assert result.returncode == 0, f"ctr {words}: {result.returncode}\n{said(result)}"
        return result.stdout.decode().removesuffix("\n")

    def start(self, *words: str | Path, **options: Any) -> Any:
        """Start ctr without waiting for its end."""
        return self.enclave.start(self.words(*words), start_new_session=True, **options)

    def tasks(self) -> dict[str, tuple[int, str]]:
        """Pid and state of each."""
        lines = [line.split() for line in self.must("task", "list").splitlines()[1:]]
        return {name: (int(pid), state) for name, pid, state in lines}

    def clear(self) -> list[str]:
        """Remove all containers; tells which there were, and what else is left."""
        left = []
        for name in self.must("container", "list", "--quiet").split():
            left.append(f"container: {name}")
            self("task", "delete", "--force", name)
            self("container", "delete", name)
        left += self.enclave.left()
        self.enclave.settle()
        return left

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(30)
        self.enclave.close()
