"""User Mode Linux: a Linux kernel that is an ordinary program. One CPU, no hardware virtualisation, boots in 75 ms.

Its guest's kernel mode runs with the rights of the process on the host: `hostfs` in the guest is the host's file
system as this process sees it, and a loaded module is code in this process. What isolates it is the jail.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

from pykrun.engine import lpj
from pykrun.engine.running import Endpoint, Running
from pykrun.engine.words import check_line, check_word, common_words, own_words
from pykrun.errors import MissingError
from pykrun.host.programs import find_program
from pykrun.machine import Machine, disk_name
from pykrun.sandbox import FILES, WORK, Jail, Wish, shared_libraries, start

PROGRAMS = ("linux.uml", "linux-uml", "linux")
INSTALL = {"apt": "user-mode-linux", "pacman": "user-mode-linux"}
"""Package that brings the engine, by package manager; other distributions have none."""

_VIRTIO_NET = 1
_VIRTIO_BLOCK = 2
_VIRTIO_CONSOLE = 3
_VIRTIO_VSOCK = 19
_VIRTIO_FS = 26
_MIB = 1 << 20
_OVERHEAD = 16 * _MIB  # of the writable place: sockets, the memory file's extra pages

MAX_SERIALS = 8
"""Serial lines; the kernel has 64."""
_FIRST_SERIAL = 3  # its descriptor in the engine
_SERIAL = "ssl_init"  # makes the serial lines

_LEFT_OUT = (
    "unregister_stderr",
    "raid6_select_algo",  # benchmarks for 850 ms
    "init_zswap",
    # Each device and driver that is announced makes the kernel fork and look for /sbin/hotplug (the configuration's
    # UEVENT_HELPER_PATH), 0.4 ms each, and these announce a hundred that nobody can use here.
    _SERIAL,  # 64 serial lines
    "stdio_init",  # 16 terminals
    *("hid_init", "hid_generic_init", "psmouse_init", "atkbd_init"),
    *(f"{name}_driver_init" for name in ("a4", "belkin", "ch", "cp", "ez", "ite", "ks", "mr", "ms", "redragon")),
    *("ubd_init", "ubd_driver_init"),  # disks are vhost-user
    "mconsole_init",  # a control socket for the host: nobody uses it
    "mmapper_init",
    "init_jfs_fs",  # a file system that starts two threads per run
)
"""Initialisation functions of the kernel that a microVM can do without: 90 ms of a bare boot become 30."""


def find() -> Path | None:
    """Return the installed program, None when there is none."""
    for name in PROGRAMS:
        path = find_program(name)
        if path is not None and (name != "linux" or is_kernel(path)):
            return path
    return None


def is_kernel(image: Path) -> bool:
    """Whether a file is a User Mode Linux kernel: a program that knows the option `uml_dir=`."""
    import mmap

    try:
        with open(image, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return data[:4] == b"\x7fELF" and os.access(image, os.X_OK) and data.find(b"uml_dir=") >= 0
    except (OSError, ValueError):  # ValueError: an empty file
        return False


def launch(machine: Machine, wish: Wish = "auto", *, measure_lpj: bool = True) -> Running:
    """Start the machine.

    :param measure_lpj: measure and use `lpj=` (once per machine; off while it is being measured).
    :raise UsageError: a kernel parameter that cannot be.
    :raise MissingError: the kernel is not there, or what serves the disks' format.
    """
    if not os.access(machine.kernel.image, os.X_OK):
        raise MissingError(f"{machine.kernel.image} is no program", "install user-mode-linux or name one with --kernel")
    if any(disk.format != "raw" for disk in machine.disks):
        from pykrun.engine import storage

        storage.find()
    listeners = {f"fs{index}": socket.socket(socket.AF_UNIX) for index in range(len(machine.shares))}
    listeners |= {name: socket.socket(socket.AF_UNIX) for name in _network_names(machine)}
    if machine.vsock:
        listeners["vsock"] = socket.socket(socket.AF_UNIX)
    if machine.ports or machine.console:
        listeners["console"] = socket.socket(socket.AF_UNIX)
    listeners |= {name: socket.socket(socket.AF_UNIX) for name in (*_console_names(machine), *_disk_names(machine))}
    serials = [socket.socketpair() for _ in range(machine.serials)]
    console, console_write = os.pipe2(os.O_CLOEXEC)
    nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        words = _words(machine, lpj.known(machine.kernel.image) if measure_lpj else None)
        jail = Jail(
            program=machine.kernel.image,
            arguments=(machine.kernel.image.name, *words),
            libraries=shared_libraries(machine.kernel.image),
            files={} if machine.initramfs is None else {"initramfs": machine.initramfs},
            listeners=listeners,
            descriptors=(nothing, console_write, console_write, *(inside.fileno() for _, inside in serials)),
            folders=("empty", "uml"),
            room=machine.memory_mib * _MIB + _OVERHEAD,
            randomize=False,  # 100 ms: with it the kernel finds its address space by trial
        )
        inmate = start(jail, wish)
    except BaseException:
        os.close(console)
        for sock in (*listeners.values(), *(outside for outside, _ in serials)):
            sock.close()
        raise
    finally:
        for _, inside in serials:
            inside.close()
        os.close(console_write)
        os.close(nothing)
    fcntl.fcntl(console, fcntl.F_SETFL, os.O_NONBLOCK)
    device, vsock = (listeners.get(name) for name in ("console", "vsock"))
    return Running(
        engine="uml",
        accel="",
        console=console,
        shares=tuple(Endpoint(listeners[f"fs{i}"], connected=False) for i in range(len(machine.shares))),
        networks=tuple(Endpoint(listeners[name], connected=False) for name in _network_names(machine)),
        vsock=None if vsock is None else Endpoint(vsock, connected=False),
        disks=tuple(Endpoint(listeners[name], connected=False) for name in _disk_names(machine)),
        console_device=None if device is None else Endpoint(device, connected=False),
        consoles=tuple(Endpoint(listeners[name], connected=False) for name in _console_names(machine)),
        serials=tuple(outside for outside, _ in serials),
        ports={},
        terminal=None,
        control=None,
        inmate=inmate,
    )


def _network_names(machine: Machine) -> list[str]:
    return [f"net{index}" for index in range(len(machine.networks))]


def _console_names(machine: Machine) -> list[str]:
    return [f"console{index}" for index in range(len(machine.consoles))]


def _disk_names(machine: Machine) -> list[str]:
    return [disk_name(index) for index in range(len(machine.disks))]


def _words(machine: Machine, loops_per_jiffy: int | None) -> list[str]:
    """The kernel command line; User Mode Linux takes it as its arguments."""
    words = [
        f"mem={machine.memory_mib}M",
        "stderr=1",
        "console=stderr0",  # with `unregister_stderr` left out: the console from the first message to the last
        "noreboot",  # a reboot in the guest would start the kernel again, for ever
        f"uml_dir={WORK}uml/",
        f"hostfs={WORK}empty",
        "lsm=capability",  # TOMOYO looks an executable up twice, which a one-shot file cannot bear
        f"initcall_blacklist={','.join(name for name in _LEFT_OUT if name != _SERIAL or not machine.serials)}",
        "pty.legacy_count=0",  # 256 legacy ptys: 170 ms
    ]
    if not machine.verbose:
        words.append("quiet")
    if loops_per_jiffy is not None:
        words.append(f"lpj={loops_per_jiffy}")
    if machine.initramfs is not None:
        words.append(f"initrd={FILES}initramfs")
    words += [f"virtio_uml.device={WORK}fs{index}:{_VIRTIO_FS}" for index in range(len(machine.shares))]
    words += [f"virtio_uml.device={WORK}{name}:{_VIRTIO_NET}" for name in _network_names(machine)]
    if machine.ports or machine.console:
        words.append(f"virtio_uml.device={WORK}console:{_VIRTIO_CONSOLE}")
    words += [f"virtio_uml.device={WORK}{name}:{_VIRTIO_CONSOLE}" for name in _console_names(machine)]
    words += [f"ssl{index}=fd:{_FIRST_SERIAL + index}" for index in range(machine.serials)]
    if machine.vsock:
        words.append(f"virtio_uml.device={WORK}vsock:{_VIRTIO_VSOCK}")
    words += [f"virtio_uml.device={WORK}{name}:{_VIRTIO_BLOCK}" for name in _disk_names(machine)]
    words += common_words(machine) if machine.command_line is None else own_words(machine)
    words += [check_word(word) for word in machine.kernel_args]
    check_line(words)
    return words
