"""apt with lists, cache and package sources of its own, below one folder: the system's apt state is not touched.

The machine's package sources are read as they are (both formats), rewritten for what is wanted of them, and used from
there; signatures are checked as always, with the keys those sources name. For builds, never on the run path.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

BINARY, SOURCE = "deb", "deb-src"
"""Kinds of package sources (sources.list(5))."""

# What the system does after each update concerns its own state.
_COMMON = """\
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "-";
Dir::Etc::sourceparts "{folder}/sources";
APT::Sandbox::User "root";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""

_FOREIGN = """\
Dir::State::status "{folder}/status";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures:: "{architecture}";
"""


def private_apt(folder: Path, kind: str, architecture: str = "") -> Path:
    """Prepare an apt below `folder`; return its configuration, for `-c` of apt-get and apt-cache. Nothing is fetched.

    As root, apt would rather download as a user of its own, who cannot enter a private folder: it stays root.

    :param kind: `BINARY` or `SOURCE`.
    :param architecture: as Debian calls it; the machine's own if empty. With another one nothing counts as installed,
        and the machine neither knows of that architecture before nor afterwards.
    """
    for part in ("lists/partial", "cache/archives/partial", "sources"):
        (folder / part).mkdir(parents=True)
    text = _COMMON.format(folder=folder)
    if architecture:
        (folder / "status").touch()
        text += _FOREIGN.format(folder=folder, architecture=architecture)
    config = folder / "apt.conf"
    config.write_text(text)
    write_sources(folder / "sources", kind)
    return config


def write_sources(folder: Path, kind: str) -> None:
    """Write the machine's package sources into the folder, as sources of that kind, for any architecture."""
    main, parts = _system_sources()
    for number, file in enumerate([main, *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]):
        try:
            text = file.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            continue
        convert = source_stanzas if file.suffix == ".sources" else source_lines
        target = folder / f"{number:03}{'.sources' if file.suffix == '.sources' else '.list'}"
        target.write_text(convert(text, kind), encoding="utf-8", errors="surrogateescape")


def _system_sources() -> tuple[Path, Path]:
    ask = ["apt-config", "shell", "MAIN", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
    answer = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    main = answer.get("MAIN", "").strip("'") or "/etc/apt/sources.list"
    parts = answer.get("PARTS", "").strip("'") or "/etc/apt/sources.list.d"
    return Path(main), Path(parts)


def source_lines(text: str, kind: str) -> str:
    """One-line format: every line as one of that kind, architectures left out, each once. See sources.list(5)."""
    lines = []
    for line in text.splitlines():
        word, *rest = line.partition("#")[0].split(maxsplit=1)[:2] or [""]
        if word in (BINARY, SOURCE) and rest:
            lines.append(f"{kind} {_any_architecture(rest[0].strip())}")
    return "\n".join([*dict.fromkeys(lines), ""])


def _any_architecture(line: str) -> str:
    """`[arch=amd64 signed-by=FILE] URI ...` without the first option, and without brackets around nothing."""
    if not line.startswith("["):
        return line
    options, _, rest = line[1:].partition("]")
    kept = [option for option in options.split() if option.partition("=")[0].rstrip("+-") != "arch"]
    return f"[{' '.join(kept)}]{rest}" if kept else rest.strip()


def source_stanzas(text: str, kind: str) -> str:
    """deb822 format: every enabled stanza as one of that kind, architectures left out. See sources.list(5)."""
    stanzas = []
    for stanza in _stanzas(text):
        if stanza.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off", "without", "disable"):
            continue
        fields = {**stanza, "types": f" {kind}"}
        for name in ("architectures", "architectures-add", "architectures-remove", "enabled"):
            fields.pop(name, None)
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
