"""From a plan to the machine that an engine is to start."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun import kernel as kernels
from pykrun.engine import Engine
from pykrun.errors import UsageError
from pykrun.machine import MAX_NETWORKS, ROOT_TAG, Console, Kernel, Machine, Network, volume_tag
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
        initramfs=_initramfs(plan, engine, kernel, init, *_modules(plan, warnings)),
        kernel_args=plan.kernel_args,
        cpus=plan.cpus or 1,
        memory_mib=plan.memory_mib,
        shares=(ROOT_TAG, *(volume.tag or volume_tag(index) for index, volume in enumerate(plan.volumes))),
        disks=plan.disks,
        networks=_networks(plan),
        ports=ports,
        console=plan.start.terminal or plan.console,
        consoles=_consoles(plan, engine, ports, warnings),
        vsock=bool(plan.vsock),
        serials=min(len(plan.serials), engine.max_serials),
        init=os.fsdecode(INIT_PATH),
        execute_init=not plan.init or INIT_PATH in plan.root.files,
        command_line=None if plan.command_line is None else tuple(plan.command_line.split()),
        oem_strings=plan.oem_strings,
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


def _initramfs(
    plan: Plan,
    engine: Engine,
    kernel: Kernel,
    init: str | os.PathLike[str],
    modules: tuple[str, ...],
    file_systems: tuple[str, ...],
) -> Path | None:
    """The caller's, or stage one.

    :raise UsageError: the caller's command line names an init that stage one would never come to.
    """
    if plan.initramfs is not None:
        return Path(plan.initramfs)
    stage_one = engine.initramfs(kernel, init, modules, file_systems)
    inits = [word for word in (plan.command_line or "").split() if word.startswith("init=")]
    if stage_one is not None and any(word != f"init={os.fsdecode(INIT_PATH)}" for word in inits):
        raise UsageError(
            f"the kernel has its drivers as modules, so that {inits[-1]} cannot be its init",
            "name a kernel with virtio-fs built in, or give an initramfs",
        )
    return stage_one


def _modules(plan: Plan, warnings: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What networks, vsock, layer and disks need of the guest's kernel: modules, and file systems."""
    modules = (*(kernels.NETWORK if plan.network or plan.links else ()), *(kernels.VSOCK if plan.vsock else ()))
    if plan.start.layer is not None:
        modules = (*modules, *kernels.LAYER)
    if not plan.disks and plan.start.root_device is None:
        return modules, ()
    from pykrun.disk import doubts
    from pykrun.supervisor.root_disk import file_systems

    warnings += filter(None, map(doubts, plan.disks))
    return (*modules, *(("virtio_blk",) if plan.disks else ())), file_systems(plan.disks, plan.start)


def _networks(plan: Plan) -> tuple[Network, ...]:
    """That of passt first."""
    cards = [Network()] if plan.network else []
    if plan.links:
        from pykrun.net.link import address_of, check

        for link in plan.links:
            check(link)
            cards.append(Network(mac=address_of(link), mtu=link.mtu))
    if len(cards) > MAX_NETWORKS:
        raise UsageError(f"{len(cards)} network cards; a machine has at most {MAX_NETWORKS}")
    return tuple(cards)


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
