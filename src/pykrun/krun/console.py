"""Consoles: where the guest's kernel and programs speak."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal, Text, call, descriptor, number, text
from pykrun.krun.context import ConsolePortSpec, ConsoleSpec, SerialSpec, find


@call
def krun_set_console_output(ctx_id: int, c_filepath: Text) -> int:
    """Write the implicit console's output to a file, and give it no input. The file is made if it is not there.

    :return: 0; -EINVAL: NULL, no UTF-8 text, or set before; -ENOENT: no such context.
    """
    path = text("c_filepath", c_filepath)
    context = find(ctx_id)
    if context.console_output is not None:
        raise Refusal(errno.EINVAL, f"the console's output goes to {context.console_output!r} already")
    context.console_output = path
    return 0


@call
def krun_disable_implicit_console(ctx_id: int) -> int:
    """Have no console but those that are added; the first one is hvc0 then.

    :return: 0; -ENOENT: no such context.
    """
    find(ctx_id).implicit_console = False
    return 0


@call
def krun_set_kernel_console(ctx_id: int, console_id: Text) -> int:
    """Set what `console=` of the kernel's command line says: hvc0, hvc1, ttyS0.

    :return: 0; -EINVAL: NULL or no UTF-8 text; -ENOENT: no such context.
    """
    name = text("console_id", console_id)
    find(ctx_id).kernel_console = name
    return 0


@call
def krun_add_virtio_console_default(ctx_id: int, input_fd: int, output_fd: int, err_fd: int) -> int:
    """Add a virtio console on three descriptors; -1 for none.

    For each that is no terminal there is a port beside the console: krun-stdin, krun-stdout, krun-stderr. The workload
    has those as its standard streams.

    :return: 0; -EINVAL: no descriptors; -ENOENT: no such context.
    """
    fds = [descriptor(name, fd) for name, fd in (("input_fd", input_fd), ("output_fd", output_fd), ("err_fd", err_fd))]
    find(ctx_id).consoles.append(ConsoleSpec(input=fds[0], output=fds[1], error=fds[2]))
    return 0


@call
def krun_add_serial_console_default(ctx_id: int, input_fd: int, output_fd: int) -> int:
    """Add a serial console on two descriptors: ttyS0, ttyS1, ... in order; -1 for none.

    User Mode Linux has eight, QEMU three for x86_64 and none for aarch64: virtio consoles (hvcN) stand in for the
    others, and a line of the log says so.

    :return: 0; -EINVAL: no descriptors; -ENOENT: no such context.
    """
    serial = SerialSpec(input=descriptor("input_fd", input_fd), output=descriptor("output_fd", output_fd))
    find(ctx_id).serials.append(serial)
    return 0


@call
def krun_add_virtio_console_multiport(ctx_id: int) -> int:
    """Add a virtio console whose ports are added one by one. Its first one that is a terminal is hvcN.

    :return: its id, which counts all virtio consoles that were added; -ENOENT: no such context.
    """
    consoles = find(ctx_id).consoles
    consoles.append(ConsoleSpec(ports=[]))
    return len(consoles) - 1


@call
def krun_add_console_port_tty(ctx_id: int, console_id: int, name: Text, tty_fd: int) -> int:
    """Add a terminal to a multiport console: a console of the guest, which knows the window's size.

    :param name: what the guest finds in /sys/class/virtio-ports; "" or NULL for none.
    :return: 0; -EINVAL: a negative descriptor, a name that is no UTF-8 text, an id of no multiport console; -ENOTTY:
        it is no terminal; -ENOENT: no such context.
    """
    fd = descriptor("tty_fd", tty_fd)
    if fd < 0:
        raise Refusal(errno.EINVAL, f"{tty_fd} is no descriptor")
    label = "" if name is None else text("name", name)
    if not os.isatty(fd):
        raise Refusal(errno.ENOTTY, f"descriptor {fd} is no terminal")
    return _add_port(ctx_id, console_id, ConsolePortSpec(name=label, input=fd, output=fd, tty=True))


@call
def krun_add_console_port_inout(ctx_id: int, console_id: int, name: Text, input_fd: int, output_fd: int) -> int:
    """Add a port to a multiport console: a pair of byte streams.

    :param name: what the guest finds in /sys/class/virtio-ports; "" or NULL for none.
    :param input_fd: what the guest reads; -1 for none.
    :param output_fd: where what the guest writes goes; -1 for none.
    :return: 0; -EINVAL: a name that is no UTF-8 text, an id of no multiport console; -ENOENT: no such context.
    """
    label = "" if name is None else text("name", name)
    port = ConsolePortSpec(
        name=label, input=descriptor("input_fd", input_fd), output=descriptor("output_fd", output_fd)
    )
    return _add_port(ctx_id, console_id, port)


def _add_port(ctx_id: int, console_id: int, port: ConsolePortSpec) -> int:
    consoles = find(ctx_id).consoles
    index = number("console_id", console_id)
    ports = consoles[index].ports if index < len(consoles) else None
    if ports is None:
        raise Refusal(errno.EINVAL, f"{console_id} is no multiport console")
    ports.append(port)
    return 0
