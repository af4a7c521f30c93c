"""`python -m pykrun.kernel [--arch ARCH]`: fetch a kernel for QEMU and unpack it into the cache; root is not needed.

The kernel is Debian's or Ubuntu's cloud image: small, and all that we need is a module of it. Where there is no apt,
the host's own kernel has to do, and this says so. A kernel for another machine than the host's comes through an apt of
its own (`pykrun.host.apt`): the host hears nothing of that architecture.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pykrun.errors import MissingError, PykrunError
from pykrun.host.apt import BINARY, private_apt
from pykrun.host.numbers import MACHINE
from pykrun.kernel.find import for_qemu, unpacked_kernels
from pykrun.kernel.image import uncompressed

_PACKAGES = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64"),
    "aarch64": ("linux-image-cloud-arm64", "linux-image-virtual", "linux-image-arm64"),
}
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
"""What Debian calls a machine."""
_SECONDS = 600


def provide(arch: str = MACHINE) -> Path:
    """Make sure that there is a kernel for QEMU; return its image.

    :param arch: the guest's machine.
    :raise MissingError: there is none and none can be fetched; the hint says what to do.
    """
    folder = unpacked_kernels(arch)
    have = any(folder.glob("*/boot/vmlinuz-*"))
    if not have and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        with _apt_for(arch, folder) as options:
            package = _newest_package(arch, options)
            if package is not None:
                _fetch(package, folder / package, options)
    kernel = for_qemu(arch)
    if kernel is None:
        raise MissingError(
            f"there is no kernel for {arch} that QEMU could boot",
            "run `apt-get update` first where there is apt; else make /boot/vmlinuz-* readable, or use --kernel"
            if arch == MACHINE
            else "the machine's package sources offer none; name one by --kernel",
        )
    uncompressed(kernel.image)
    return kernel.image


@contextmanager
def _apt_for(arch: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """Options that make apt see that machine's packages. As root it would rather download as a user who cannot enter
    our folder: let it stay root."""
    if arch == MACHINE:
        yield ("-o", "APT::Sandbox::User=root")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=folder) as state:
        options = ("-c", str(private_apt(Path(state) / "apt", BINARY, _DEBIAN.get(arch, arch))))
        _say(f"asking the distribution for its packages for {arch}")
        _apt("apt-get", *options, "update")  # a source that does not offer them is no reason to stop
        yield options


def _newest_package(arch: str, options: tuple[str, ...]) -> str | None:
    """The real kernel package behind the first meta package that apt knows, with its version; None without one."""
    for meta in _PACKAGES.get(arch, ()):
        answer = _apt("apt-cache", *options, "depends", "--important", meta)
        for name in re.findall(r"Depends: (linux-image-[0-9]\S*)", answer):
            about = _apt("apt-cache", *options, "show", "--no-all-versions", name)
            version = re.search(r"^Version: (\S+)$", about, re.MULTILINE)
            if version is not None:
                return f"{name}={version[1]}"
    return None


def _fetch(package: str, folder: Path, options: tuple[str, ...]) -> None:
    """Download and unpack a package so that `folder` appears as a whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        _say(f"downloading {package}")
        download = ("apt-get", "-qq", *options, "download", package)
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
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=_SECONDS, env=environment
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
    parser = argparse.ArgumentParser(prog="python3 -m pykrun.kernel", description="Fetch a kernel for QEMU.")
    parser.add_argument(
        "--arch", choices=tuple(_PACKAGES), default=MACHINE, help="the guest's machine (default: %(default)s)"
    )
    try:
        print(provide(parser.parse_args().arch))
    except (PykrunError, OSError, subprocess.SubprocessError) as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
