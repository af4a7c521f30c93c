"""The distribution's podman in an enclave."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

from tests.support.enclave import OURS, PATH, Enclave, archive, ours, tree

CONFIGURATION = """[containers]
# Podman raises the limits of containers above what a machine without CAP_SYS_RESOURCE may.
default_ulimits = ["nofile={files}:{files}", "nproc=1024:1024"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
conmon_env_vars = [{environment}]
events_logger = "file"
lock_type = "file"
runtime_supports_json = ["{ours}", "crun", "runc"]
runtime_supports_nocgroup = ["{ours}", "crun"]
[engine.runtimes]
{ours} = ["{program}"]
[network]
network_backend = "netavark"
network_config_dir = "/run/networks"
"""


class Store:
    """An enclave with podman's configuration and one image, used by all tests of a session."""

    def __init__(self) -> None:
        self.enclave = Enclave()
        folder = self.enclave.folder
        self.configuration = folder / "containers.conf"
        environment = {**self.enclave.environment(), "PATH": PATH}
        self.configuration.write_text(
            CONFIGURATION.format(
                files=min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
                environment=", ".join(json.dumps(f"{name}={value}") for name, value in environment.items()),
                ours=OURS,
                program=ours(),
            )
        )
        self.tree = tree(folder / "tree")
        self.archive = archive(folder / "image.tar")
        Podman(self, "crun").must("load", "--quiet", "--input", self.archive)
        self.enclave.settle()

    def close(self) -> None:
        Podman(self, "crun")("rm", "--force", "--all", "--time", "0")
        self.enclave.close()


class Podman:
    """`podman(...)` runs podman with a runtime.

    :param runtime: a name of its configuration.
    """

    def __init__(self, store: Store, runtime: str) -> None:
        self.store = store
        self.runtime = runtime

    def words(self, *words: str | Path) -> list[str | Path]:
        """The command line."""
        grouped = words[0] in ("run", "create") and "--cgroups=disabled" not in words
        own = [f"--cgroup-parent=/{self.store.enclave.cgroup}"] if grouped else []
        return ["podman", f"--runtime={self.runtime}", words[0], *own, *words[1:]]

    def environment(self) -> dict[str, str]:
        return {"CONTAINERS_CONF": str(self.store.configuration)}

    def __call__(
        self, *words: str | Path, stdin: bytes = b"", timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return self.store.enclave.run(self.words(*words), stdin=stdin, timeout=timeout, env=self.environment())

    def must(self, *words: str | Path, stdin: bytes = b"", timeout: float = 60) -> str:
        """The output of a call that has to succeed, without the last line's end."""
        result = self(*words, stdin=stdin, timeout=timeout)
        assert result.returncode == 0, f"podman {words}: {result.returncode}\n{said(result)}"
        return result.stdout.decode().removesuffix("\n")

    def start(self, *words: str | Path, **options: Any) -> Any:
        """Start podman without waiting for its end."""
        options.setdefault("start_new_session", True)
        return self.store.enclave.start(self.words(*words), env=self.environment(), **options)

    def sh(self, script: str, *options: str | Path, **more: Any) -> str:
        """Run a shell's script in a container of its own that is removed then; its output."""
        return self.must("run", "--rm", *options, "localhost/app:1", "sh", "-c", script, **more)

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.must("inspect", name))[0]
        return found

    def pid(self, name: str) -> int:
        """The process that stands for the container: for us, the supervisor of its VM."""
        pid: int = self.inspect(name)["State"]["Pid"]
        return pid

    def containers(self, *options: str) -> list[dict[str, Any]]:
        listed = self.must("ps", "--format", "json", *options)
        found: list[dict[str, Any]] = json.loads(listed or "[]")
        return found

    def delete_forgotten(self) -> None:
        """Remove what podman no longer knows: when conmon or it was killed, it does not ask its runtime to."""
        for folder in self.store.enclave.inside(f"/run/{OURS}").glob("*"):
            result = self.store.enclave.run([ours(), "delete", "--force", folder.name])
            assert result.returncode == 0, said(result)

    def clear(self) -> list[str]:
        """Remove all containers; tells which there were, and what else is left."""
        left = [f"container: {one['Names']} {one['State']}" for one in self.containers("--all")]
        if left:
            self("rm", "--force", "--all", "--time", "0")
        left += self.store.enclave.left()
        self.store.enclave.settle()
        return left


def said(result: subprocess.CompletedProcess[bytes]) -> str:
    """Both streams, for a message."""
    streams = {"stdout": result.stdout, "stderr": result.stderr}
    return "\n".join(f"{name}: {what[-2000:].decode(errors='replace')}" for name, what in streams.items())


def host_kernel() -> str:
    return os.uname().release
