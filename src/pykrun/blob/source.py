"""CPython's source from the distribution, through apt, without touching the system's own apt state.

The machine's package sources are read as they are (both formats), turned into sources of source packages in a private
folder, and used from there; signatures are checked as always, with the keys those sources name.
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
    """apt with lists, cache and sources of its own, below one folder."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        for part in ("lists/partial", "cache/archives/partial", "sources", "files"):
            (folder / part).mkdir(parents=True)
        self._config = folder / "apt.conf"
        self._config.write_text(
            "\n".join(
                [
                    f'Dir::State::lists "{folder}/lists";',
                    f'Dir::Cache "{folder}/cache";',
                    'Dir::Etc::sourcelist "-";',
                    f'Dir::Etc::sourceparts "{folder}/sources";',
                    'APT::Sandbox::User "root";',  # apt's own user cannot reach the private folder
                    'Acquire::Languages "none";',
                    # what the system does after each update concerns its own state
                    "#clear APT::Update::Pre-Invoke;",
                    "#clear APT::Update::Post-Invoke;",
                    "#clear APT::Update::Post-Invoke-Success;",
                    "",
                ]
            )
        )
        write_sources(folder / "sources")

    def _run(self, *command: str) -> str:
        # proxies and the like come from the environment
        environment = {**os.environ, "PATH": tool_path(), "LC_ALL": "C"}
        program, *arguments = command
        return run(
            [program, "-c", str(self._config), *arguments],
            cwd=self._folder / "files",
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
        return self._folder / "files" / name


def _compare_versions(one: str, other: str) -> int:
    def holds(relation: str) -> bool:
        return subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0

    return 1 if holds("gt") else -1 if holds("lt") else 0


# ---- package sources


def write_sources(folder: Path) -> None:
    """Write the machine's package sources into the folder, as sources of source packages."""
    main, parts = _system_sources()
    for number, file in enumerate([main, *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]):
        try:
            text = file.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            continue
        convert = source_stanzas if file.suffix == ".sources" else source_lines
        target = folder / f"{number:03}{'.sources' if file.suffix == '.sources' else '.list'}"
        target.write_text(convert(text), encoding="utf-8", errors="surrogateescape")


def _system_sources() -> tuple[Path, Path]:
    ask = ["apt-config", "shell", "MAIN", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
    answer = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    main = answer.get("MAIN", "").strip("'") or "/etc/apt/sources.list"
    parts = answer.get("PARTS", "").strip("'") or "/etc/apt/sources.list.d"
    return Path(main), Path(parts)


def source_lines(text: str) -> str:
    """One-line format: every `deb` line as a `deb-src` line, each once. See sources.list(5)."""
    lines = []
    for line in text.splitlines():
        kind, *rest = line.partition("#")[0].split(maxsplit=1)[:2] or [""]
        if kind in ("deb", "deb-src") and rest:
            lines.append(f"deb-src {rest[0].strip()}")
    return "\n".join([*dict.fromkeys(lines), ""])


def source_stanzas(text: str) -> str:
    """deb822 format: every enabled stanza with the type `deb-src`, architectures left out. See sources.list(5)."""
    stanzas = []
    for stanza in _stanzas(text):
        if stanza.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off", "without", "disable"):
            continue
        fields = {**stanza, "types": " deb-src"}
        fields.pop("architectures", None)
        fields.pop("enabled", None)
        stanzas.append("".join(f"{name}:{value}\n" for name, value in fields.items()))
    return "\n".join(dict.fromkeys(stanzas))


def _stanzas(text: str) -> list[dict[str, str]]:
    """Fields by lower-case name, values as they stand, with their continuation lines."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
            name = ""
        elif line[0] in " \t":
            if name:
                stanzas[-1][name] += "\n" + line
        else:
            key, colon, value = line.partition(":")
            if colon:
                name = key.strip().lower()
                stanzas[-1][name] = value
    return [stanza for stanza in stanzas if "uris" in stanza]
