"""A part of this machine for container engines: with mounts, a network and run-time folders that end with it.

Whatever podman, conmon, netavark or containerd keep in their usual places (/run, /var/lib, /dev/shm, bridges, rules of
the packet filter) is the enclave's, never the user's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.image import make
from tests.support.command import ROOT, cache_folder

OURS = "pykrun-oci"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = """sh ls cat echo uname id sleep nc nslookup wget env pwd stat stty tty tail head dd md5sum grep df touch mkdir
rm kill ps mount nproc free hostname true false seq trap sync ip sort wc printf date cut"""
"""What busybox is in the trees and images here."""

IMAGE = "localhost/app:1"
IMAGE_ENV = "FROM_IMAGE=yes"

KEPT = ("/var/lib/containers/storage/overlay",)
"""Mounts that podman makes for itself and keeps."""

# cgroup2 beside version 1 is more than crun and podman understand; without it they see version 1 alone.
ENTER = """set -e
if grep -q '^cgroup ' /proc/mounts; then
    for at in $(awk '$3 == "cgroup2" { print $2 }' /proc/mounts); do umount "$at"; done
fi
mount -t tmpfs -o mode=755 run /run
mkdir -m 1777 /run/lock
mount -t tmpfs -o mode=755 lib /var/lib
mount -t tmpfs -o mode=1777 shm /dev/shm
ip link set lo up
echo ready
exec cat
"""


class Impossible(Exception):
    """This machine has no such namespaces to give; the message says why."""


class Enclave:
    """It lives until `close`, or until this process ends. Needs root.

    :ivar folder: of the enclave's, for files that both sides use; the same path inside.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pe"))
        self.folder.chmod(0o755)
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.cgroup = f"pykrun-test-{os.getpid()}-{self.folder.name}"
        unshare = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", ENTER]
        self._holder = subprocess.Popen(
            unshare, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise Impossible(f"no mount and network namespaces here: {self._holder.stderr.read().decode().strip()}")
        self.settle()

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """What runs `words` inside."""
        of = f"/proc/{self._holder.pid}/ns"
        return ["nsenter", f"--mount={of}/mnt", f"--net={of}/net", "--", *map(str, words)]

    def environment(self) -> dict[str, str]:
        """What a login of root has, with the user's cache, and a folder for temporary files that is looked at."""
        return {
            "PATH": PATH,
            "HOME": os.environ.get("HOME", "/root"),
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(cache_folder()),
        }

    def start(self, words: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any) -> Any:
        """Start a program inside."""
        return subprocess.Popen(self.command(words), env={**self.environment(), **(env or {})}, **options)

    def run(
        self,
        words: Sequence[str | Path],
        *,
        stdin: bytes = b"",
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program inside to its end.

        :raise AssertionError: it did not end in time; shows what it had said.
        """
        pipe = subprocess.PIPE
        process = self.start(words, env=env, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        try:
            output, errors = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1)
            raise AssertionError(f"{words} did not end within {timeout} s") from None
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def inside(self, path: str | Path) -> Path:
        """A path of the enclave as it is seen from here."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def settle(self) -> None:
        """Whatever is here now is no leftover."""
        self._known = set(self._everything())

    def left(self, grace: float = 5) -> list[str]:
        """What is mounted, linked, lying or running in the enclave that was not there at `settle`."""
        end = time.monotonic() + grace
        while True:
            left = sorted(set(self._everything()) - self._known)
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.05)

    def _everything(self) -> Iterator[str]:
        for line in Path(f"/proc/{self._holder.pid}/mountinfo").read_text(errors="surrogateescape").splitlines():
            if line.split()[4] not in KEPT:
                yield f"mount: {line.split()[4]}"
        links = self.run(["ip", "-json", "link"]).stdout
        yield from (f"network interface: {link['ifname']}" for link in json.loads(links or b"[]"))
        for folder in (self.temporary, *(self.inside(f"/run/{name}") for name in ("netns", "pykrun", OURS, "crun"))):
            yield from (f"file: {path}" for path in folder.glob("*"))
        yield from (f"cgroup: {path}" for path in self._cgroups() if path.name != self.cgroup)

    def _cgroups(self) -> list[Path]:
        """Folders of the control groups that were made here, the deepest first."""
        found: list[Path] = []
        for top in {*Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"), *Path("/sys/fs/cgroup").glob(self.cgroup)}:
            if not top.is_symlink():
                found += [top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "conmon")]
        return sorted(found, reverse=True)

    def close(self) -> None:
        """End it; its mounts and its network go with the last process inside."""
        self._holder.kill()
        end = time.monotonic() + 5
        while self._cgroups() and time.monotonic() < end:  # busy for as long as a process in it is being ended
            for top in self._cgroups():
                for folder in (top / "conmon", top):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            time.sleep(0.02)
        self._holder.communicate()
        shutil.rmtree(self.folder)


def tree(folder: Path) -> Path:
    """Make a root file system of busybox and two users."""
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", "home"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    shutil.copy2(busybox(), folder / "bin/busybox")
    for tool in TOOLS.split():
        (folder / "bin" / tool).symlink_to("busybox")
    (folder / "etc/passwd").write_bytes(PASSWD)
    (folder / "etc/group").write_bytes(GROUP)
    return folder


PASSWD = b"root:x:0:0::/:/bin/sh\napp:x:1000:1001::/home:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1001:\nextra:x:1002:app\n"


def archive(path: Path) -> Path:
    """Make the same as an image in an archive, by the name `IMAGE`."""
    folders = [make.folder(name) for name in ("bin", "dev", "etc", "home", "proc", "run", "sys")]
    content = make.layer(
        *folders,
        make.folder("tmp", mode=0o1777),
        make.file("bin/busybox", busybox().read_bytes(), mode=0o755),
        *(make.link(f"bin/{tool}", "busybox") for tool in TOOLS.split()),
        make.file("etc/passwd", PASSWD),
        make.file("etc/group", GROUP),
        make.file("etc/plain", b"not a program\n"),
    )
    config = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", IMAGE_ENV], "Labels": {"of": "the test"}}
    return make.docker_archive(path, [content], config, [IMAGE])


def busybox() -> Path:
    """The static one.

    :raise RuntimeError: there is none.
    """
    found = shutil.which("busybox", path=PATH)
    if found is None:
        raise RuntimeError("no busybox on PATH (apt-get install busybox-static)")
    return Path(found)


def ours() -> str:
    """The runtime of this checkout."""
    return str(ROOT / OURS)
