"""From a plan to the machine that an engine is to start."""

from __future__ import annotations

import os

from pykrun import kernel as kernels
from pykrun.engine import Engine
from pykrun.errors import UsageError
from pykrun.machine import ROOT_TAG, Console, Kernel, Machine, Network, volume_tag
from pykrun.root import INIT_PATH
from pykrun.supervisor.plan import Plan


def build(
    plan: Plan, engine: Engine, kernel: Kernel, init: str | os.PathLike[str], ports: tuple[str, ...]
) -> tuple[Machine, list[str]]:
    """Return the machine, and what was not to be had as it was asked for.

    :param init: the init blob.
    :param ports: the workload's own.
    :raise UsageError: the plan asks for what cannot be.
    :raise MissingError: the kernel lacks a module or file system.
    """
    warnings: list[str] = []
    if (plan.cpus or 1) > engine.max_cpus:
        warnings.append(f"engine {engine.name} runs one CPU, {plan.cpus} were asked for (--engine qemu has more)")
    _check_memory(plan.memory_mib, engine)
    machine = Machine(
        kernel=kernel,
        initramfs=engine.initramfs(kernel, init, *_modules(plan, warnings)),
        kernel_args=plan.kernel_args,
        cpus=plan.cpus or 1,
        memory_mib=plan.memory_mib,
        shares=(ROOT_TAG, *(volume.tag or volume_tag(index) for index, volume in enumerate(plan.volumes))),
        disks=plan.disks,
        network=Network() if plan.network else None,
        ports=ports,
        console=plan.start.terminal or plan.console,
        consoles=_consoles(plan, engine, ports, warnings),
        serials=min(len(plan.serials), engine.max_serials),
        init=os.fsdecode(INIT_PATH),
        execute_init=INIT_PATH in plan.root.files,
        verbose=plan.boot_log is not None,
    )
    return machine, warnings


def _check_memory(mib: int, engine: Engine) -> None:
    """Refuse what could only end in a guest that does not boot, or in a host that swaps.

    :raise UsageError: too little for the guest, or more than the host has.
    """
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    if mib < engine.min_memory_mib:
        raise UsageError(f"--memory {mib}: a guest on engine {engine.name} needs at least {engine.min_memory_mib} MiB")
    if mib > host:
        raise UsageError(f"--memory {mib}: this host has {host} MiB")


def _modules(plan: Plan, warnings: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What network, layer and disks need of the guest's kernel: modules, and file systems."""
    modules = kernels.NETWORK if plan.network else ()
    if plan.start.layer is not None:
        modules = (*modules, *kernels.LAYER)
    if not plan.disks and plan.start.root_device is None:
        return modules, ()
    from pykrun.disk import doubts
    from pykrun.supervisor.root_disk import file_systems

    warnings += filter(None, map(doubts, plan.disks))
    return (*modules, *(("virtio_blk",) if plan.disks else ())), file_systems(plan.disks, plan.start)


def _consoles(plan: Plan, engine: Engine, ports: tuple[str, ...], warnings: list[str]) -> tuple[Console, ...]:
    """The plan's, and those that stand in for serial lines."""
    if not plan.consoles and not plan.serials:
        return ()
    from pykrun.supervisor.consoles import check, stand_in

    consoles = plan.consoles
    if len(plan.serials) > engine.max_serials:
        consoles += stand_in(plan.serials[engine.max_serials :])
        warnings.append(
            f"a {engine.arch} guest on engine {engine.name} has {engine.max_serials} serial lines, "
            f"{len(plan.serials)} were asked for: virtio consoles (/dev/hvcN) stand in for the others"
        )
    check(consoles, plan.serials, ports)
    return consoles
