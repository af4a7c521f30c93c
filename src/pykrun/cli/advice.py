"""What `pykrun doctor` advises beyond packages, which depends on the place: a container, a CI runner, a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pykrun.engine import qemu, uml
from pykrun.net import passt

DISTRIBUTIONS = {
    "Debian, Ubuntu": ("apt-get install", "apt"),
    "Fedora": ("dnf install", "dnf"),
    "Arch": ("pacman -S", "pacman"),
}
_SWITCHES = {
    "kernel.apparmor_restrict_unprivileged_userns": "1",
    "kernel.unprivileged_userns_clone": "0",
    "user.max_user_namespaces": "0",
}
"""sysctl(8) settings, and the value with which ordinary users get no namespaces."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Where this program runs.

    :ivar container: `docker`, `podman`, some other container's name, or empty.
    :ivar runner: `GitHub Actions`, `GitLab CI`, `a CI runner`, or empty.
    :ivar kvm: `usable`, `forbidden` (it is there, and not for us), or `missing`.
    :ivar switches: settings of the kernel that keep namespaces from ordinary users.
    :ivar root: we are root, which needs no such namespaces.
    :ivar package_manager: one was found.
    :ivar cache: pykrun's folder for what it makes, if that cannot be written.
    """

    container: str = ""
    runner: str = ""
    kvm: str = "missing"
    switches: tuple[str, ...] = field(default=())
    root: bool = False
    package_manager: bool = True
    cache: str = ""


def look(environment: Mapping[str, str]) -> Surroundings:
    """Find out."""
    from pykrun.engine.facts import MANAGERS
    from pykrun.host.cache import cache_directory, can_be_written
    from pykrun.host.programs import find_program

    kvm = "missing"
    if os.path.exists("/dev/kvm"):
        kvm = "usable" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "forbidden"
    return Surroundings(
        container=_container(environment),
        runner=_runner(environment),
        kvm=kvm,
        switches=tuple(name for name, value in _SWITCHES.items() if _setting(name) == value),
        root=os.geteuid() == 0,
        package_manager=any(find_program(program) for program in MANAGERS),
        cache="" if can_be_written() else os.fspath(cache_directory()),
    )


def _container(environment: Mapping[str, str]) -> str:
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    return environment.get("container", "")


def _runner(environment: Mapping[str, str]) -> str:
    for name, runner in (("GITHUB_ACTIONS", "GitHub Actions"), ("GITLAB_CI", "GitLab CI"), ("CI", "a CI runner")):
        if environment.get(name, "") not in ("", "false", "0"):
            return runner
    return ""


def _setting(name: str) -> str:
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def advice(findings: Mapping[str, Any], where: Surroundings) -> list[str]:
    """Return what to do, a sentence each, most useful first; nothing where nothing is missing."""
    works = {row["name"]: row["works"] for row in findings["engines"]}
    lines: list[str] = []
    if where.cache:
        lines.append(f"{where.cache} cannot be written: set XDG_CACHE_HOME to a folder that you can write")
    if not (works.get("uml") or works.get("qemu")):
        lines += _engines(where)
    lines += _namespaces(findings, where)
    if (works.get("qemu") and not works.get("kvm")) or (where.kvm == "forbidden"):
        lines += _kvm(where)
    return lines


def _engines(where: Surroundings) -> list[str]:
    lines = []
    if not where.package_manager:
        for name, (command, key) in DISTRIBUTIONS.items():
            packages = [one[key] for one in (uml.INSTALL, qemu.INSTALL, passt.INSTALL) if key in one]
            lines.append(f"{name}: {command} {' '.join(packages)}")
    if where.runner == "GitHub Actions" and not where.container:
        lines.append("GitHub Actions: a step `sudo apt-get update && sudo apt-get install -y user-mode-linux passt`")
    elif where.container or where.runner == "GitLab CI":
        lines.append("in a container: install the packages in its image; no privilege and no device is needed to run")
    return lines


def _namespaces(findings: Mapping[str, Any], where: Surroundings) -> list[str]:
    if findings["isolation"]["level"] not in (None, "reduced"):
        return []
    if where.container:
        return [
            f"isolation is reduced: {where.container}'s filter of system calls allows no namespaces; "
            "--security-opt seccomp=unconfined lets the engine have its own"
        ]
    return [
        f"isolation is reduced: `sudo sysctl -w {name}={'0' if _SWITCHES[name] == '1' else '10000'}` "
        "gives ordinary users namespaces"
        for name in (() if where.root else where.switches)
    ]


def _kvm(where: Surroundings) -> list[str]:
    if where.kvm == "usable":
        return []
    if where.kvm == "forbidden":
        if where.runner:
            return [f"KVM: /dev/kvm is not for this user; in {where.runner}: `sudo chmod 666 /dev/kvm`"]
        return ["KVM: /dev/kvm is not for this user: `sudo usermod -aG kvm $USER`, and log in again"]
    if where.container:
        return ["KVM: if the host has it, start the container with --device /dev/kvm"]
    if where.runner:
        return [f"KVM: {where.runner} has none here; larger or self-hosted runners may"]
    return ["KVM: switch virtualization on in the firmware, or nested virtualization where this is a VM itself"]
