"""The one description of a machine that every engine understands."""

from __future__ import annotations

from pathlib import Path

from pykrun.record import record

ROOT_TAG = "/dev/root"
"""The virtio-fs tag of the root file system, literally (as libkrun has it)."""


@record(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A guest kernel and what belongs to it.

    `image` is an executable for User Mode Linux, a bzImage or an ELF vmlinux for QEMU. `modules` is the folder that
    holds `kernel/` and `modules.dep`, None when everything that is needed is built in.
    """

    image: Path
    modules: Path | None
    release: str


@record(frozen=True, slots=True, kw_only=True)
class Network:
    """The guest's one network device, eth0.

    :param mac: its address: six bytes, not a multicast one.
    :param mtu: the largest packet in bytes, without the Ethernet header; 68 to 65520.
    """

    mac: bytes = b"\x52\x54\x00\x6b\x72\x75"
    mtu: int = 65520


@record(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything an engine must know to start a VM; nothing about what the VM is to do (that is the start data).

    :param kernel: the guest kernel.
    :param initramfs: stage one, an uncompressed newc cpio; None boots straight into the virtio-fs root.
    :param kernel_args: words the caller adds to the kernel command line, each without white space.
    :param cpus: virtual CPUs, at least 1.
    :param memory_mib: guest memory in MiB.
    :param shares: tags of the virtio-fs devices, the root's first.
    :param network: a network device, None for a machine without.
    :param ports: names of the virtio-console ports, in order.
    :param console: also a virtio console, hvc0 in the guest, for a terminal.
    :param init: value for the kernel's `init=`, None to leave it out.
    :param execute_init: stage one executes /init.krun of the root instead of going on as init itself (the caller brings
        an init of their own).
    :param verbose: let the kernel print its boot messages (slower: each line goes through an emulated console).
    """

    kernel: Kernel
    initramfs: Path | None
    kernel_args: tuple[str, ...] = ()
    cpus: int = 1
    memory_mib: int = 256
    shares: tuple[str, ...] = (ROOT_TAG,)
    network: Network | None = None
    ports: tuple[str, ...] = ()
    console: bool = False
    init: str | None = None
    execute_init: bool = False
    verbose: bool = False
