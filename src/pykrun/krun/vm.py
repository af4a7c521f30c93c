"""The virtual machine itself: processors, memory, firmware strings, the ids it runs with."""

from __future__ import annotations

import errno

from pykrun.host.numbers import MACHINE
from pykrun.krun.calls import Refusal, Texts, call, number, texts
from pykrun.krun.context import find


@call
def krun_set_vm_config(ctx_id: int, num_vcpus: int, ram_mib: int) -> int:
    """Set the number of virtual CPUs (1 to 255) and the memory in MiB.

    User Mode Linux has one CPU: where more are asked for, QEMU is chosen if it is there; else a line of the log says
    that there is one.

    :return: 0; -EINVAL: no CPU, no memory, or a number that does not fit; -ENOENT: no such context.
    """
    cpus, memory = number("num_vcpus", num_vcpus, 8), number("ram_mib", ram_mib)
    context = find(ctx_id)
    if cpus == 0 or memory == 0:
        raise Refusal(errno.EINVAL, f"a VM with {cpus} CPUs and {memory} MiB cannot be")
    context.cpus, context.memory_mib = cpus, memory
    return 0


@call
def krun_split_irqchip(ctx_id: int, enable: bool) -> int:
    """Ask for interrupt controllers half in KVM, half in the VMM.

    Accepted, and without effect on both engines: User Mode Linux has no interrupt controller, QEMU chooses itself.

    :return: 0; -EINVAL: enabled on a machine other than x86_64; -ENOENT: no such context.
    """
    if enable and MACHINE != "x86_64":
        raise Refusal(errno.EINVAL, f"there is no split interrupt controller on {MACHINE}")
    find(ctx_id).split_irqchip = bool(enable)
    return 0


@call
def krun_set_nested_virt(ctx_id: int, enabled: bool) -> int:
    """Ask for virtual machines inside the VM. Success does not mean that the machine can do it.

    Neither User Mode Linux nor QEMU's emulation can; with KVM, QEMU gives the guest what the host's CPU has.

    :return: 0; -ENOENT: no such context.
    """
    find(ctx_id).nested_virt = bool(enabled)
    return 0


@call
def krun_set_smbios_oem_strings(ctx_id: int, oem_strings: Texts) -> int:
    """Set the strings of the firmware's table 11 (SMBIOS, OEM strings); an empty array takes them back.

    On QEMU for x86_64. User Mode Linux has no firmware: a line of the log says so at the start.

    :return: 0; -EINVAL: NULL, or no UTF-8 text; -ENOENT: no such context.
    """
    strings = texts("oem_strings", oem_strings)
    find(ctx_id).oem_strings = strings
    return 0


@call
def krun_setuid(ctx_id: int, uid: int) -> int:
    """Change to that user id right before the VM starts, after the group id.

    The further groups of the caller go too. Disks, sockets of network devices and the workload's streams are opened
    before. What is opened by its name afterwards, that user has to reach and be allowed: the console's output, the
    kernel, what a shared directory holds, the sockets of vsock ports. That it fails is the result of
    `krun_start_enter`.

    :return: 0; -EINVAL: no number of 32 bits; -ENOENT: no such context.
    """
    value = number("uid", uid)
    find(ctx_id).uid = value
    return 0


@call
def krun_setgid(ctx_id: int, gid: int) -> int:
    """Change to that group id right before the VM starts; else as `krun_setuid`.

    :return: 0; -EINVAL: no number of 32 bits; -ENOENT: no such context.
    """
    value = number("gid", gid)
    find(ctx_id).gid = value
    return 0
