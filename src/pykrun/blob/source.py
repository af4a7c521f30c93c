"""CPython's source from the distribution, through apt, without touching the system's own apt state.

`pykrun.host.apt` tells how; what it says goes into the build's log.
"""

from __future__ import annotations

import os
import subprocess
from functools import cmp_to_key
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.cache import Progress
from pykrun.blob.run import run, tool_path
from pykrun.errors import BlobError
from pykrun.host.apt import SOURCE, private_apt

PACKAGE = f"python{recipe.PYTHON}"

NO_SOURCE_HINT = "KRUN_INIT_BINARY_PATH can name a blob that was built elsewhere"


def fetch(work: Path, log: Path, progress: Progress) -> tuple[Path, str]:
    """Download and unpack; returns the source's folder, below `work`, and the package's version.

    :raise BlobError: no package source offers it, or it could not be downloaded.
    """
    apt = _Apt(work / "apt", log)
    progress(f"asking the distribution for the source of {PACKAGE}")
    apt.update()
    versions = apt.versions()
    if not versions:
        raise BlobError(f"the package sources of this machine offer no source of {PACKAGE}", NO_SOURCE_HINT)
    for version in versions:
        progress(f"downloading the source of {PACKAGE} {version}")
        try:
            description = apt.download(version)
        except BlobError as error:
            failure = error
            continue  # an index can be ahead of its mirror: the version before it is often still there
        run(["dpkg-source", "--no-check", "-x", str(description), "src"], cwd=work, log=log)
        return work / "src", version
    raise failure


class _Apt:
    """A private apt for source packages."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._config = private_apt(folder, SOURCE)
        self._files = folder / "files"
        self._files.mkdir()
        self._log = log

    def _run(self, *command: str) -> str:
        # proxies and the like come from the environment
        environment = {**os.environ, "PATH": tool_path(), "LC_ALL": "C"}
        program, *arguments = command
        return run(
            [program, "-c", str(self._config), *arguments],
            cwd=self._files,
            log=self._log,
            environment=environment,
        )

    def update(self) -> None:
        try:
            self._run("apt-get", "update")
        except BlobError:
            pass  # one unreachable source among many is no reason to stop: what counts is what is there afterwards

    def versions(self) -> list[str]:
        """Versions on offer, newest first."""
        try:
            text = self._run("apt-cache", "showsrc", "--only-source", PACKAGE)
        except BlobError:
            return []
        found = {line.removeprefix("Version:").strip() for line in text.splitlines() if line.startswith("Version:")}
        return sorted(found, key=cmp_to_key(_compare_versions), reverse=True)

    def download(self, version: str) -> Path:
        """Fetch all files of that version; the .dsc's path."""
        self._run("apt-get", "source", "--download-only", f"{PACKAGE}={version}")
        name = f"{PACKAGE}_{version.partition(':')[2] or version}.dsc"
        return self._files / name


def _compare_versions(one: str, other: str) -> int:
    def holds(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0

    return 1 if holds("gt") else -1 if holds("lt") else 0
