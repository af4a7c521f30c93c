"""A table of engines; each turns a `Machine` into a running process.

`choose` picks one, its `default_kernel` and `initramfs` say what it boots, `launch` starts it and returns `Running`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pykrun import kernel as kernels
from pykrun.engine import probe, qemu, uml
from pykrun.engine.running import Endpoint, Running
from pykrun.engine.words import panic_exit_code
from pykrun.errors import MissingError, UsageError
from pykrun.machine import Kernel, Machine
from pykrun.sandbox import Ended, Isolation, Wish

EngineName = Literal["auto", "uml", "qemu"]
AccelName = Literal["auto", "kvm", "tcg"]


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run a machine here.

    :ivar name: `uml` or `qemu`.
    :ivar accel: `kvm`, `tcg`, or empty for User Mode Linux.
    :ivar program: the engine's executable.
    :ivar max_cpus: what it can give a guest; asked for more it runs so many.
    """

    name: str
    accel: str
    program: Path
    max_cpus: int

    def default_kernel(self) -> Kernel:
        """Return the kernel to boot when the caller names none.

        :raise MissingError: there is none.
        """
        if self.name == "uml":
            return kernels.for_image(self.program)
        kernel = kernels.for_qemu()
        if kernel is None:
            raise MissingError("there is no kernel for QEMU", "run `python3 -m pykrun.kernel`, or name one by --kernel")
        return kernel

    def launch(self, machine: Machine, *, sandbox: Wish = "auto") -> Running:
        """Start the machine and return at once; the caller must be single threaded.

        :param sandbox: `require` refuses less isolation than own namespaces.
        :raise UsageError: a kernel parameter that cannot be.
        :raise MissingError: a file or library is not there.
        :raise SandboxError: the required isolation is not to be had.
        """
        return TABLE[self.name].launch(self, machine, sandbox)


@dataclass(frozen=True, slots=True)
class EngineType:
    """A row of the table of engines.

    :ivar find: the installed program, None when there is none.
    :ivar install: package by package manager.
    """

    find: Callable[[], Path | None]
    launch: Callable[[Engine, Machine, Wish], Running]
    install: dict[str, str]
    max_cpus: int


def _launch_uml(engine: Engine, machine: Machine, wish: Wish) -> Running:
    return uml.launch(machine, wish)


def _launch_qemu(engine: Engine, machine: Machine, wish: Wish) -> Running:
    return qemu.launch(machine, wish, accel=engine.accel, program=engine.program)


TABLE: dict[str, EngineType] = {
    "uml": EngineType(uml.find, _launch_uml, uml.INSTALL, 1),
    "qemu": EngineType(qemu.find, _launch_qemu, qemu.INSTALL, 255),
}


def choose(
    name: EngineName = "auto", accel: AccelName = "auto", cpus: int | None = None, kernel: Kernel | None = None
) -> Engine:
    """Pick an engine: QEMU where KVM truly works, else User Mode Linux, else QEMU's emulation.

    :param accel: anything but `auto` means QEMU.
    :param cpus: as the caller asked for it, None if they did not: more than one means QEMU where it is installed.
    :param kernel: the caller's own; `auto` then takes the engine that it is for.
    :raise UsageError: the wishes contradict each other, or KVM was asked for and does not work.
    :raise MissingError: the engine (with `auto`: any engine) is not installed.
    """
    if name == "uml" and accel != "auto":
        raise UsageError(f"User Mode Linux knows no --accel {accel}", "leave it out, or use --engine qemu")
    found_uml, found_qemu = uml.find(), qemu.find()
    if name == "uml" or (name == "auto" and accel == "auto" and kernel is not None and uml.is_kernel(kernel.image)):
        return _uml(found_uml if kernel is None else kernel.image)
    if found_qemu is None and (name == "qemu" or accel != "auto" or kernel is not None):
        raise MissingError(f"{qemu.PROGRAM} is not installed", "`pykrun doctor` names the command that installs it")
    if found_qemu is None:
        return _uml(found_uml)
    bootable = kernel or kernels.for_qemu()
    if accel == "tcg":
        return _qemu(found_qemu, "tcg")
    verdict = (
        probe.Verdict(False, "there is no kernel for QEMU") if bootable is None else probe.kvm(found_qemu, bootable)
    )
    if accel == "kvm" and not verdict.works:
        raise UsageError(f"KVM does not work here: {verdict.reason}", "leave out --accel kvm")
    if verdict.works:
        return _qemu(found_qemu, "kvm")
    wants_qemu = name == "qemu" or kernel is not None or (cpus or 1) > 1
    if found_uml is not None and (not wants_qemu or (bootable is None and name == "auto")):
        return _uml(found_uml)
    return _qemu(found_qemu, "tcg")


def _uml(program: Path | None) -> Engine:
    if program is None:
        raise MissingError("no engine is installed", "`pykrun doctor` names the command that installs one")
    return Engine("uml", "", program, TABLE["uml"].max_cpus)


def _qemu(program: Path, accel: str) -> Engine:
    return Engine("qemu", accel, program, TABLE["qemu"].max_cpus)


__all__ = [
    "TABLE",
    "AccelName",
    "Ended",
    "Endpoint",
    "Engine",
    "EngineName",
    "EngineType",
    "Isolation",
    "Running",
    "choose",
    "panic_exit_code",
]
