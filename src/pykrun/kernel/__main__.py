"""`python -m pykrun.kernel`: fetch a kernel for QEMU and unpack it into the cache; repeatable, root is not needed.

The kernel is Debian's or Ubuntu's cloud image: small, and all that we need is a module of it. Where there is no apt,
the host's own kernel has to do, and this says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pykrun.errors import MissingError, PykrunError
from pykrun.host.numbers import MACHINE
from pykrun.kernel.find import for_qemu, unpacked_kernels
from pykrun.kernel.image import uncompressed

_PACKAGES = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64"),
    "aarch64": ("linux-image-cloud-arm64", "linux-image-virtual", "linux-image-arm64"),
}
_SECONDS = 600


def provide() -> Path:
    """Make sure that there is a kernel for QEMU; return its image.

    :raise MissingError: there is none and none can be fetched; the hint says what to do.
    """
    have = any(unpacked_kernels().glob("*/boot/vmlinuz-*"))
    if not have and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        package = _newest_package()
        if package is not None:
            _fetch(package, unpacked_kernels() / package)
    kernel = for_qemu()
    if kernel is None:
        raise MissingError(
            "there is no kernel that QEMU could boot",
            "run `apt-get update` first where there is apt; else make /boot/vmlinuz-* readable, or use --kernel",
        )
    uncompressed(kernel.image)
    return kernel.image


def _newest_package() -> str | None:
    """The real kernel package behind the first meta package that apt knows, with its version; None without one."""
    for meta in _PACKAGES.get(MACHINE, ()):
        answer = _apt("apt-cache", "depends", "--important", meta)
        for name in re.findall(r"Depends: (linux-image-[0-9]\S*)", answer):
            version = re.search(r"^Version: (\S+)$", _apt("apt-cache", "show", "--no-all-versions", name), re.MULTILINE)
            if version is not None:
                return f"{name}={version[1]}"
    return None


def _fetch(package: str, folder: Path) -> None:
    """Download and unpack a package so that `folder` appears as a whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        _say(f"downloading {package}")
        # As root apt would rather download as a user who cannot enter our folder: let it stay root.
        download = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package)
        _run(download, Path(scratch), "`apt-get update`, or check the network")
        archive = next(Path(scratch).glob("*.deb"))
        _say("unpacking")
        unpacked = Path(scratch) / "unpacked"
        _run(("dpkg-deb", "--extract", str(archive), str(unpacked)), Path(scratch), "free some disk space")
        shutil.rmtree(unpacked / "usr/share", ignore_errors=True)
        try:
            os.rename(unpacked, folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was faster
                raise


def _apt(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60, env=environment
    ).stdout


def _run(command: tuple[str, ...], where: Path, hint: str) -> None:
    answer = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=_SECONDS)
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or ["no reason given"]
        raise MissingError(f"{command[0]} failed: {lines[-1]}", hint)


def _say(text: str) -> None:
    print(f"kernel: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Provide a kernel; return the exit status."""
    try:
        print(provide())
    except (PykrunError, OSError, subprocess.SubprocessError) as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
