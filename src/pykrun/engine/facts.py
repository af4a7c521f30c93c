"""What can run on this host, what cannot, and which packages would change that: for people, not for the run path."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pykrun import kernel as kernels
from pykrun.engine import probe, qemu, storage, uml
from pykrun.errors import MissingError, PykrunError
from pykrun.host.checkout import command_for
from pykrun.host.programs import find_program
from pykrun.sandbox import Isolation, Jail, shared_libraries, start
from pykrun.sandbox.servant import Service, serve

MANAGERS = {"apt-get": "apt", "dnf": "dnf", "pacman": "pacman"}
COMMANDS = {"apt": "apt-get install", "dnf": "dnf install", "pacman": "pacman -S"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that can run, or not.

    :ivar name: `uml`, `qemu`, `kvm`, `qcow2`.
    :ivar works: a VM can be run with it.
    :ivar detail: what it is, or why it does not work.
    :ivar install: the command that makes it work, empty when there is none or nothing is missing.
    """

    name: str
    works: bool
    detail: str
    install: str = ""


def install_command(packages: dict[str, str]) -> str:
    """Return the command of this host's package manager that brings a package, empty when it has none.

    :param packages: package by `apt`, `dnf`, `pacman`.
    """
    for program, manager in MANAGERS.items():
        if find_program(program) is not None:
            return f"{COMMANDS[manager]} {packages[manager]}" if manager in packages else ""
    return ""


def engines() -> list[Fact]:
    """Look at every engine, and try KVM if there is one to try it with."""
    return [_uml(), *_qemu(), _qcow2()]


def isolation() -> Isolation | str:
    """Put a harmless program into a jail; return the isolation reached, or why that failed."""
    program = find_program("true")
    if program is None:
        return "no program to try it with"
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        jail = Jail(
            program=program,
            arguments=("true",),
            libraries=shared_libraries(program),
            descriptors=(nothing, nothing, nothing),
        )
        inmate = start(jail)
    except PykrunError as error:
        return str(error)
    finally:
        os.close(nothing)
    try:
        return inmate.isolation
    except PykrunError as error:
        return str(error)
    finally:
        inmate.close()


def servers() -> Isolation | str:
    """Fork a server of ours that does nothing, as those of disks are; return its isolation, or why that failed."""
    try:
        servant = serve(Service(name="pykrun doctor", serve=_nothing, descriptors=()))
    except PykrunError as error:
        return str(error)
    try:
        return servant.isolation
    except PykrunError as error:
        return str(error)
    finally:
        servant.close()


def _nothing() -> None:
    pass


def _uml() -> Fact:
    program = uml.find()
    if program is None:
        install = install_command(uml.INSTALL)
        why = "not installed" if install else "not installed, and this distribution has no package of it"
        return Fact(name="uml", works=False, detail=why, install=install)
    try:
        kernel = kernels.for_image(program)
    except PykrunError as error:
        return Fact(name="uml", works=False, detail=str(error), install=install_command(uml.INSTALL))
    if kernel.modules is None:
        why = f"{program} has no modules in {kernels.UML_MODULES / kernel.release}"
        return Fact(name="uml", works=False, detail=why, install=install_command(uml.INSTALL))
    return Fact(name="uml", works=True, detail=f"User Mode Linux {kernel.release}, {program}")


def _qemu() -> list[Fact]:
    program = qemu.find()
    if program is None:
        missing = Fact(name="qemu", works=False, detail="not installed", install=install_command(qemu.INSTALL))
        return [missing, Fact(name="kvm", works=False, detail="needs QEMU")]
    kernel = kernels.for_qemu()
    version = _version(program)
    if kernel is None:
        why = f"{version}, but there is no kernel for it"
        return [
            Fact(name="qemu", works=False, detail=why, install=command_for("pykrun.kernel")),
            Fact(name="kvm", works=False, detail="there is no kernel to try it with"),
        ]
    verdict = probe.kvm(program, kernel)
    return [
        Fact(name="qemu", works=True, detail=f"{version}, {program}, kernel {kernel.release}"),
        Fact(name="kvm", works=verdict.works, detail=verdict.reason or "a guest ran"),
    ]


def _qcow2() -> Fact:
    """Images that QEMU reads itself, and User Mode Linux through a program of QEMU's."""
    try:
        return Fact(name="qcow2", works=True, detail=f"disks of User Mode Linux too, by {storage.find()}")
    except MissingError:
        with_qemu = qemu.find() is not None
    detail = f"{'disks of QEMU only' if with_qemu else 'no disks'}: {storage.PROGRAM} is not installed"
    return Fact(name="qcow2", works=with_qemu, detail=detail, install=install_command(storage.INSTALL))


def _version(program: Path) -> str:
    try:
        answer = subprocess.run((program, "--version"), capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return f"{program.name}, which does not tell its version"
    words = answer.split()
    return "QEMU " + (words[words.index("version") + 1] if "version" in words[:-1] else "")
