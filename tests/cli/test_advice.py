"""What the doctor advises, by where it is."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pykrun.cli.advice import Surroundings, advice, look


def findings(*works: str, level: str | None = "user-namespace") -> dict[str, Any]:
    return {
        "engines": [{"name": name, "works": name in works} for name in ("uml", "qemu", "kvm")],
        "isolation": {"level": level},
    }


@pytest.mark.parametrize(
    ("found", "where", "expected"),
    [
        (findings("uml", "qemu", "kvm"), Surroundings(kvm="usable"), []),
        (findings("uml"), Surroundings(), []),
        (findings("qemu"), Surroundings(), ["firmware"]),
        (findings("qemu"), Surroundings(kvm="usable"), []),  # why it does not work is said in its line
        (findings("uml"), Surroundings(kvm="forbidden"), ["usermod -aG kvm"]),
        (findings("qemu"), Surroundings(kvm="forbidden", runner="GitHub Actions"), ["sudo chmod 666 /dev/kvm"]),
        (findings("qemu"), Surroundings(container="podman"), ["--device /dev/kvm"]),
        (findings("qemu"), Surroundings(runner="a CI runner"), ["self-hosted"]),
        (findings(), Surroundings(), []),  # the package manager's command is said already
        (
            findings(),
            Surroundings(package_manager=False),
            ["apt-get install user-mode-linux", "dnf install", "pacman -S"],
        ),
        (findings(), Surroundings(runner="GitHub Actions"), ["sudo apt-get update"]),
        (findings(), Surroundings(container="docker", runner="GitHub Actions"), ["in a container"]),
        (findings(), Surroundings(runner="GitLab CI"), ["in a container"]),
        (findings("uml", level="reduced"), Surroundings(container="docker"), ["seccomp=unconfined"]),
        (
            findings("uml", level="reduced"),
            Surroundings(switches=("kernel.apparmor_restrict_unprivileged_userns", "user.max_user_namespaces")),
            ["userns=0", "max_user_namespaces=10000"],
        ),
        (findings("uml", level="reduced"), Surroundings(switches=("user.max_user_namespaces",), root=True), []),
        (findings("uml"), Surroundings(cache="/no/cache"), ["/no/cache cannot be written: set XDG_CACHE_HOME"]),
    ],
)
def test_advice(found: dict[str, Any], where: Surroundings, expected: list[str]) -> None:
    lines = advice(found, where)
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("environment", "runner"),
    [
        ({}, ""),
        ({"CI": "true"}, "a CI runner"),
        ({"CI": "1", "GITHUB_ACTIONS": "true"}, "GitHub Actions"),
        ({"CI": ""}, ""),
    ],
)
def test_where_we_are(environment: dict[str, str], runner: str) -> None:
    found = look(environment)
    assert found.runner == runner
    assert found.root == (os.geteuid() == 0)
    if not os.path.exists("/.dockerenv") and not os.path.exists("/run/.containerenv"):
        assert look({"container": "lxc"}).container == "lxc"
