"""apt with a state of its own: the machine's source lists rewritten, and packages of another architecture in sight."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pykrun.host.apt import BINARY, SOURCE, private_apt, source_lines, source_stanzas, write_sources

STANZAS = """\
# a comment
Types: deb
URIs: http://example.org/debian
Suites: stable stable-updates
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/some.gpg

Types: deb deb-src
URIs: http://example.org/other
# within
Suites: stable
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----


Enabled: no
Types: deb
URIs: http://example.org/off
Suites: stable
Components: main
"""


def test_lines() -> None:
    text = (
        "deb http://example.org/debian stable main\n"
        "deb-src http://example.org/debian stable main  # already\n"
        "  deb\t[arch=amd64 signed-by=/k.gpg] http://example.org/x y z\n"
        "# deb http://example.org/off stable main\n"
        "\nnonsense\n"
    )
    assert source_lines(text, SOURCE) == (
        "deb-src http://example.org/debian stable main\ndeb-src [signed-by=/k.gpg] http://example.org/x y z\n"
    )
    assert (
        source_lines("deb-src [ arch+=amd64 ] http://example.org/x y z\n", BINARY) == "deb http://example.org/x y z\n"
    )


def test_stanzas() -> None:
    first, second = source_stanzas(STANZAS, SOURCE).split("\n\n")
    assert first.splitlines() == [
        "types: deb-src",
        "uris: http://example.org/debian",
        "suites: stable stable-updates",
        "components: main",
        "signed-by: /usr/share/keyrings/some.gpg",
    ]
    assert "types: deb-src\n" in second + "\n"
    assert " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n" in second
    assert "off" not in second


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt-get on PATH: only Debian has it")
def test_apt_understands_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a.sources").write_text(source_stanzas(STANZAS.replace("Signed-By: /usr", "X-Signed-By: /usr"), SOURCE))
    (folder / "b.list").write_text(source_lines("deb http://example.net/one two three\n", SOURCE))
    lists = tmp_path / "lists"
    options = [f"Dir::Etc::sourceparts={folder}", "Dir::Etc::sourcelist=-", f"Dir::State::lists={lists}"]
    options.append(f"Dir::Cache={tmp_path}")
    command = ["apt-get", "update", "--print-uris", *(word for option in options for word in ("-o", option))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {line.split("'")[1] for line in done.stdout.splitlines() if "Sources" in line} == {
        "http://example.org/debian/dists/stable/main/source/Sources.xz",
        "http://example.org/debian/dists/stable-updates/main/source/Sources.xz",
        "http://example.org/other/dists/stable/main/source/Sources.xz",
        "http://example.net/one/dists/two/three/source/Sources.xz",
    }


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="no apt-get on PATH: only Debian has it")
def test_the_machines_own_sources(tmp_path: Path) -> None:
    write_sources(tmp_path, SOURCE)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "deb-src" in written
    assert "\ndeb " not in written


@pytest.mark.skipif(shutil.which("apt-config") is None, reason="no apt-get on PATH: only Debian has it")
def test_another_architecture_is_known_only_there(tmp_path: Path) -> None:
    config = private_apt(tmp_path / "apt", BINARY, "arm64")
    answers = []
    for option in (["-c", str(config)], []):
        command = ["apt-config", *option, "dump", "APT::Architecture", "APT::Architectures", "Dir::State::status"]
        answers.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    private, system = answers
    assert 'APT::Architecture "arm64";' in private
    assert 'APT::Architectures:: "arm64";' in private
    assert private.count("APT::Architectures:: ") == 1
    assert str(tmp_path) in private
    assert "arm64" not in system or "arm64" in subprocess.check_output(["dpkg", "--print-architecture"], text=True)
    assert (tmp_path / "apt" / "status").read_text() == ""
