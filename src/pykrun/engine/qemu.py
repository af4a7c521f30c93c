"""QEMU: any number of CPUs, near-native speed with KVM, software emulation (TCG) without.

The guest is a process' data, not a process' code: kernel modules and kernel memory of the guest are emulated or run
under hardware virtualisation.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from pykrun.engine.boards import BOARDS
from pykrun.engine.running import Endpoint, Running
from pykrun.engine.words import check_line, check_word, common_words, own_words
from pykrun.errors import MissingError
from pykrun.host.numbers import MACHINE
from pykrun.host.programs import find_program
from pykrun.host.sockets import widen
from pykrun.kernel.image import uncompressed
from pykrun.machine import Machine, Network, disk_name
from pykrun.sandbox import FILES, WORK, Jail, Wish, shared_libraries, start

INSTALL = BOARDS[MACHINE].install if MACHINE in BOARDS else {}
"""Package that brings the engine for guests of the host's kind, by package manager."""

_QUEUE_SIZE = 1024  # the default of 128 limits a request to 124 pages


def find(arch: str = MACHINE) -> Path | None:
    """Return the installed program for guests of that kind, None when there is none."""
    return find_program(BOARDS[arch].program) if arch in BOARDS else None


def launch(machine: Machine, wish: Wish = "auto", *, accel: str = "tcg", program: Path | None = None) -> Running:
    """Start the machine.

    :param accel: `kvm` or `tcg`.
    :raise UsageError: a kernel parameter that cannot be.
    :raise MissingError: QEMU or the kernel is not there.
    """
    arch = machine.kernel.arch
    program = program or find(arch)
    if program is None:
        raise MissingError(f"there is no QEMU for {arch} here", "`pykrun doctor` names the command that installs it")
    if not os.access(machine.kernel.image, os.R_OK):
        hint = "" if machine.firmware else "name a kernel with --kernel"
        raise MissingError(f"{machine.kernel.image} cannot be read", hint)
    wires = _Wires()
    listeners = {f"net{index}": socket.socket(socket.AF_UNIX) for index in range(len(machine.networks))}
    try:
        arguments = [
            *(program.name, *_options(machine, accel)),
            *_devices(machine, accel, wires),
            *_disks(machine, wires),
            *_kernel(machine, accel),
        ]
        jail = Jail(
            program=program,
            arguments=tuple(arguments),
            libraries=(*shared_libraries(program, *_modules(program, arch)), *_folders(program)),
            files=_files(machine),
            devices=("kvm",) if accel == "kvm" else (),
            listeners=listeners,
            descriptors=wires.inside(),
            denied=("ptrace",),
        )
        inmate = start(jail, wish)
    except BaseException:
        wires.close_outside()
        for listener in listeners.values():
            listener.close()
        raise
    finally:
        wires.close_inside()
    return Running(
        engine="qemu",
        accel=accel,
        console=wires.outside["log"].detach(),
        shares=tuple(Endpoint(wires.outside[f"fs{i}"], connected=True) for i in range(len(machine.shares))),
        networks=tuple(Endpoint(listener, connected=False) for listener in listeners.values()),
        vsock=Endpoint(wires.outside["vsock"], connected=True) if machine.vsock else None,
        console_device=None,
        ports={name: wires.outside[f"port{i}"] for i, name in enumerate(machine.ports)},
        terminal=wires.outside.get("terminal"),
        console_ports=tuple(
            tuple(wires.outside[_port_id(index, number)] for number in range(len(console.ports)))
            for index, console in enumerate(machine.consoles)
        ),
        serials=tuple(wires.outside[f"serial{index}"] for index in range(machine.serials)),
        control=wires.outside["qmp"],
        keeps_tables=any(disk.format != "raw" and not disk.read_only for disk in machine.disks),
        inmate=inmate,
    )


class _Wires:
    """Socket pairs between us and the engine; the engine's ends are its descriptors 3, 4, 5, ..."""

    def __init__(self) -> None:
        self.outside: dict[str, socket.socket] = {}
        self._inside: list[socket.socket | int] = []
        self._nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.add("log")

    def add(self, name: str) -> int:
        """Make a pair and return the number that the engine's end will have."""
        outside, inside = socket.socketpair()
        outside.setblocking(False)
        widen(inside)  # QEMU drops what a console's socket does not take at once, however busy we are
        self.outside[name] = outside
        self._inside.append(inside)
        return 2 + len(self._inside)

    def lend(self, descriptor: int) -> int:
        """Return the number that a descriptor of the caller's will have in the engine."""
        self._inside.append(descriptor)
        return 2 + len(self._inside)

    def inside(self) -> tuple[int, ...]:
        """What becomes 0, 1, 2, 3, ... of the engine: its messages go where the guest's console goes."""
        numbers = [end if isinstance(end, int) else end.fileno() for end in self._inside]
        return (self._nothing, numbers[0], numbers[0], *numbers)

    def close_inside(self) -> None:
        os.close(self._nothing)
        for end in self._inside:
            if not isinstance(end, int):
                end.close()

    def close_outside(self) -> None:
        for sock in self.outside.values():
            sock.close()


def _options(machine: Machine, accel: str) -> list[str]:
    """The machine itself."""
    board = BOARDS[machine.kernel.arch]
    return [
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-M", f"{board.machine},memory-backend=mem"),
        *("-accel", "kvm" if accel == "kvm" else "tcg,thread=multi"),
        *("-cpu", "host" if accel == "kvm" else board.cpu),
        *("-smp", str(machine.cpus)),
        *("-m", f"{machine.memory_mib}M"),
        *("-object", f"memory-backend-memfd,id=mem,size={machine.memory_mib}M,share=on"),
        *(word for text in machine.oem_strings for word in ("-smbios", f"type=11,value={text.replace(',', ',,')}")),
    ]


def _devices(machine: Machine, accel: str, wires: _Wires) -> list[str]:
    """Devices and the descriptors behind them."""

    def chardev(name: str) -> list[str]:
        number = 3 if name == "log" else wires.add(name)
        return ["-chardev", f"socket,id={name},fd={number}"]

    words = []
    for index in range(machine.serials):
        words += [*chardev(f"serial{index}"), "-serial", f"chardev:serial{index}"]
    words += [*chardev("log"), "-serial", "chardev:log"]
    words += [*chardev("qmp"), "-mon", "chardev=qmp,mode=control"]
    for index, tag in enumerate(machine.shares):
        words += chardev(f"fs{index}")
        words += [
            "-device",
            f"vhost-user-fs-pci,chardev=fs{index},tag={tag.replace(',', ',,')},queue-size={_QUEUE_SIZE}",
        ]
    for index, network in enumerate(machine.networks):
        # By path: of an inherited socket QEMU does not believe that it passes descriptors, which a network asks for.
        name = f"net{index}"
        words += ["-chardev", f"socket,id={name},path={WORK}{name}", "-netdev", f"vhost-user,id={name},chardev={name}"]
        words += ["-device", _network_card(name, network, accel)]
    words += _ports(machine, chardev)
    if machine.vsock:
        words += [*chardev("vsock"), "-device", "vhost-user-vsock-pci,chardev=vsock"]
    return words


def _ports(machine: Machine, chardev: Callable[[str], list[str]]) -> list[str]:
    """Console devices: the first has all consoles, since Linux numbers those of several devices as chance has it.

    Port 0 of a device is for a console. Each port is two queues that the guest's driver sets up, used or not; 31 by
    default. With one port a device has no control messages, and its port no name.
    """
    ports = [("terminal", "virtconsole", "")] if machine.console else []
    others: list[list[tuple[str, str, str]]] = []
    for index, console in enumerate(machine.consoles):
        kept: list[tuple[str, str, str]] = []
        for number, port in enumerate(console.ports):
            kind = "virtconsole" if port.console else "virtserialport"
            (ports if port.console else kept).append((_port_id(index, number), kind, port.name))
        others.append(kept)
    first = 0 if ports else 1
    ports += [(f"port{index}", "virtserialport", name) for index, name in enumerate(machine.ports)]
    words = []
    for index, group in enumerate((ports, *others)):
        if not group:
            continue
        words += ["-device", f"virtio-serial-pci,id=serial{index},max_ports={len(group) + 1}"]
        for number, (chardev_id, kind, name) in enumerate(group):
            words += chardev(chardev_id)
            place = f"bus=serial{index}.0,nr={number + (first if index == 0 else 1)}"
            words += ["-device", f"{kind},chardev={chardev_id},{place}" + (f",name={_escaped(name)}" if name else "")]
    return words


def _escaped(value: str) -> str:
    """A value among QEMU's options."""
    return value.replace(",", ",,")


def _port_id(device: int, number: int) -> str:
    return f"console{device}port{number}"


def _network_card(name: str, network: Network, accel: str) -> str:
    """The device's options; without `romfile=` QEMU wants a file of firmware to boot from it.

    Where it emulates the processor, QEMU 7.2 masks this device's MSI-X vectors through KVM's structures, which are not
    there, and crashes. So it has none: it interrupts by its one line.
    """
    card = f"virtio-net-pci,netdev={name},mac={network.mac.hex(':')},host_mtu={network.mtu},romfile="
    return card if accel == "kvm" else f"{card},vectors=0"


def _disks(machine: Machine, wires: _Wires) -> list[str]:
    """Block devices, last on the bus and in order, so that the guest finds them as vda, vdb, ...

    QEMU opens no image: it duplicates the descriptor that it has inherited.
    """
    import json  # of use only here

    words = []
    for index, disk in enumerate(machine.disks):
        name = disk_name(index)
        words += ["-add-fd", f"fd={wires.lend(disk.descriptor)},set={index}"]
        common = {"read-only": disk.read_only, "discard": "unmap"}
        driver = "host_device" if stat.S_ISBLK(os.fstat(disk.descriptor).st_mode) else "file"
        file: dict[str, object] = {
            "driver": driver,
            "filename": f"/dev/fdset/{index}",
            "node-name": f"{name}-file",
            **common,
        }
        node: dict[str, object] = {"driver": disk.format, "file": f"{name}-file", "node-name": name, **common}
        if disk.format != "raw":
            node["backing"] = None  # an image is not to name further files of the host
        for description in (file, node):
            words += ["-blockdev", json.dumps(description)]
        # The guest is told of errors; by default QEMU would stop the machine when the host's disk is full.
        words += ["-device", f"virtio-blk-pci,drive={name},serial={_escaped(disk.serial)},werror=report,rerror=report"]
    return words


def _files(machine: Machine) -> dict[str, Path]:
    if machine.firmware:
        return {"firmware": machine.kernel.image}
    files = {"kernel": uncompressed(machine.kernel.image)}
    if machine.initramfs is not None:
        files["initramfs"] = machine.initramfs
    return files


def _kernel(machine: Machine, accel: str) -> list[str]:
    """What is booted, and the kernel command line."""
    if machine.firmware:
        return ["-bios", FILES + "firmware"]
    words = _fixed(machine, accel) if machine.command_line is None else own_words(machine)
    words += [check_word(word) for word in machine.kernel_args]
    initrd = [] if machine.initramfs is None else ["-initrd", FILES + "initramfs"]
    return ["-kernel", FILES + "kernel", *initrd, "-append", check_line(words)]


def _fixed(machine: Machine, accel: str) -> list[str]:
    """The command line, unless the caller has one."""
    board = BOARDS[machine.kernel.arch]
    words = [
        f"console={board.serial}{machine.serials}",
        *board.words,
        "panic=-1",
        "lsm=capability",  # TOMOYO looks an executable up twice, which a one-shot file cannot bear
        "cryptomgr.notests",  # the self-tests of ciphers took most of the boot
    ]
    if accel != "kvm":  # emulation isolates as it is; these only cost time there
        words += ["nokaslr", "mitigations=off"]
    if not machine.verbose:
        words.append("quiet")
    return words + common_words(machine)


def _modules(program: Path, arch: str) -> list[Path]:
    """The parts of QEMU that distributions put into shared objects and that we need."""
    folder = _module_folder(program)
    return [path for path in (folder / f"accel-tcg-{arch}.so",) if path.exists()]


def _module_folder(program: Path) -> Path:
    library = program.parent.parent / "lib"
    return next(iter(library.glob(f"{MACHINE}-linux-*/qemu")), library / "qemu")


def _folders(program: Path) -> list[str]:
    """Firmware and modules, read-only."""
    share = program.parent.parent / "share"
    folders = (_module_folder(program), share / "qemu", share / "seabios")
    return [str(folder) for folder in folders if folder.is_dir()]
