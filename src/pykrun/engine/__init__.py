"""A table of engines; each turns a `Machine` into a running process.

`choose` picks one, its `kernel` and `initramfs` say what it boots, its `launch` starts it and returns `Running`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pykrun import kernel as kernels
from pykrun.engine import probe, qemu, uml
from pykrun.engine.boards import BOARDS
from pykrun.engine.running import Endpoint, Running
from pykrun.engine.words import PANIC, panic_exit_code
from pykrun.errors import MissingError, UsageError
from pykrun.host.checkout import command_for
from pykrun.host.numbers import MACHINE
from pykrun.machine import Kernel, Machine
from pykrun.record import record, replace
from pykrun.sandbox import Ended, Isolation, Wish


@record(frozen=True, slots=True)
class Engine:
    """One way to run a machine here.

    :ivar name: `uml` or `qemu`.
    :ivar accel: `kvm`, `tcg`, or empty for User Mode Linux.
    :ivar program: the engine's executable.
    :ivar max_cpus: what it can give a guest; asked for more it runs so many.
    :ivar min_memory_mib: with less its guests do not boot.
    :ivar arch: the machine that its guests are, as `uname -m` says.
    """

    name: str
    accel: str
    program: Path
    max_cpus: int
    min_memory_mib: int
    arch: str = MACHINE

    @property
    def max_serials(self) -> int:
        """How many serial lines a guest may have."""
        return uml.MAX_SERIALS if self.name == "uml" else BOARDS[self.arch].max_serials

    def kernel(
        self, image: str | os.PathLike[str] | None = None, modules: str | os.PathLike[str] | None = None
    ) -> Kernel:
        """Return the kernel to boot: the caller's, or what this engine boots when they name none.

        :param modules: folder of its modules; None for where they usually are.
        :raise MissingError: there is none.
        """
        folder = None if modules is None else Path(modules)
        if image is not None:
            return kernels.for_image(Path(image), folder)
        if self.name == "uml":
            return kernels.for_image(self.program, folder)
        kernel = kernels.for_qemu(self.arch)
        if kernel is None:
            fetch = (
                command_for("pykrun.kernel")
                if self.arch == MACHINE
                else command_for(f"pykrun.kernel --arch {self.arch}", "cross")
            )
            raise MissingError(f"there is no kernel of {self.arch} for QEMU", f"run `{fetch}`, or name one by --kernel")
        return kernel if folder is None else replace(kernel, modules=folder)

    def initramfs(
        self,
        kernel: Kernel,
        blob: str | os.PathLike[str],
        modules: tuple[str, ...] = (),
        file_systems: tuple[str, ...] = (),
    ) -> Path | None:
        """Return stage one for a kernel, from the cache or made now; None when the kernel needs none.

        :param blob: the init blob.
        :param modules: further modules to load.
        :param file_systems: what a root disk may have; load what the kernel has of it.
        :raise MissingError: the kernel lacks a module or file system, or the cache cannot be written.
        """
        return kernels.initramfs(kernel, Path(blob), modules, file_systems)

    def launch(self, machine: Machine, *, sandbox: str = "auto") -> Running:
        """Start the machine and return at once; the caller must be single threaded.

        :param sandbox: `require` refuses less isolation than own namespaces.
        :raise UsageError: a kernel parameter that cannot be.
        :raise MissingError: a file or library is not there.
        :raise SandboxError: the required isolation is not to be had.
        """
        if sandbox not in ("auto", "require"):
            raise UsageError(f"there is no sandbox {sandbox!r}", "auto or require")
        return TABLE[self.name].launch(self, machine, "require" if sandbox == "require" else "auto")


@record(frozen=True, slots=True)
class EngineType:
    """A row of the table of engines.

    :ivar find: the installed program, None when there is none.
    :ivar install: package by package manager.
    """

    find: Callable[[], Path | None]
    launch: Callable[[Engine, Machine, Wish], Running]
    install: dict[str, str]
    max_cpus: int
    min_memory_mib: int


def _launch_uml(engine: Engine, machine: Machine, wish: Wish) -> Running:
    return uml.launch(machine, wish)


def _launch_qemu(engine: Engine, machine: Machine, wish: Wish) -> Running:
    return qemu.launch(machine, wish, accel=engine.accel, program=engine.program)


TABLE: dict[str, EngineType] = {
    "uml": EngineType(uml.find, _launch_uml, uml.INSTALL, 1, 48),
    "qemu": EngineType(qemu.find, _launch_qemu, qemu.INSTALL, 255, 96),
}


def choose(
    name: str = "auto",
    accel: str = "auto",
    cpus: int | None = None,
    kernel: str | os.PathLike[str] | None = None,
    arch: str | None = None,
) -> Engine:
    """Pick an engine: QEMU where KVM truly works, else User Mode Linux, else QEMU's emulation.

    A guest of another architecture than the host's is QEMU's emulation.

    :param name: `auto` or a key of `TABLE`.
    :param accel: `auto`, `kvm` or `tcg`; anything but `auto` means QEMU.
    :param cpus: as the caller asked for it, None if they did not: more than one means QEMU where it is installed.
    :param kernel: the caller's own; `auto` then takes the engine that it is for.
    :param arch: the machine that the guest is to be, as `uname -m` says; None for the kernel's or the host's.
    :raise UsageError: the wishes contradict each other, or KVM was asked for and does not work.
    :raise MissingError: the engine (with `auto`: any engine) is not installed.
    """
    if name not in ("auto", *TABLE) or accel not in ("auto", "kvm", "tcg"):
        raise UsageError(f"there is no engine {name!r} with acceleration {accel!r}")
    if name == "uml" and accel != "auto":
        raise UsageError(f"User Mode Linux knows no --accel {accel}", "leave it out, or use --engine qemu")
    guest = _architecture(kernel, arch)
    if guest != MACHINE:
        return _emulated(name, accel, guest)
    if name == "auto" and accel != "auto":
        name = "qemu"
    if name == "auto" and kernel is not None:
        name = "uml" if uml.is_kernel(Path(kernel)) else "qemu"
    if name == "uml":
        return _uml(uml.find() if kernel is None else Path(kernel))
    program = qemu.find()
    if program is None and name == "qemu":
        raise MissingError("QEMU is not installed", "`pykrun doctor` names the command that installs it")
    own = kernels.for_image(Path(kernel)) if kernel is not None else kernels.for_qemu()
    if program is None or (name == "auto" and own is None):
        return _uml(uml.find())
    if accel != "tcg":
        verdict = probe.kvm(program, own)
        if verdict.works:
            return _qemu(program, "kvm")
        if accel == "kvm":
            raise UsageError(f"KVM does not work here: {verdict.reason}", "leave out --accel kvm")
    found_uml = uml.find()
    if name == "auto" and found_uml is not None and (cpus or 1) == 1:
        return _uml(found_uml)
    return _qemu(program, "tcg")


def _architecture(kernel: str | os.PathLike[str] | None, arch: str | None) -> str:
    """What the guest is to be."""
    if arch is not None and arch not in BOARDS:
        raise UsageError(f"there are no guests of {arch}", f"there are: {', '.join(BOARDS)}")
    if kernel is None:
        return arch or MACHINE
    own = kernels.for_image(Path(kernel)).arch
    if arch not in (None, own):
        raise UsageError(f"{os.fspath(kernel)} is a kernel of {own}, not of {arch}", "leave out --arch")
    return own


def _emulated(name: str, accel: str, arch: str) -> Engine:
    """An engine for guests of another kind than the host."""
    if name == "uml" or accel == "kvm":
        what = "User Mode Linux" if name == "uml" else "KVM"
        raise UsageError(f"{what} runs only guests of {MACHINE} here, not of {arch}", "use --engine qemu --accel tcg")
    program = qemu.find(arch)
    if program is None:
        packages = " or ".join(dict.fromkeys(BOARDS[arch].install.values()))
        raise MissingError(f"{BOARDS[arch].program} is not installed", f"install {packages}")
    return _engine("qemu", "tcg", program, arch)


def _uml(program: Path | None) -> Engine:
    if program is None:
        raise MissingError("no engine is installed", "`pykrun doctor` names the command that installs one")
    return _engine("uml", "", program)


def _qemu(program: Path, accel: str) -> Engine:
    return _engine("qemu", accel, program)


def _engine(name: str, accel: str, program: Path, arch: str = MACHINE) -> Engine:
    row = TABLE[name]
    return Engine(name, accel, program, row.max_cpus, row.min_memory_mib, arch)


__all__ = [
    "PANIC",
    "TABLE",
    "Ended",
    "Endpoint",
    "Engine",
    "EngineType",
    "Isolation",
    "Running",
    "choose",
    "panic_exit_code",
]
