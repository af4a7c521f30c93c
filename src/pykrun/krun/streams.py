"""From a context's consoles to the workload's standard streams and the devices beside them."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from pykrun.krun.calls import Refusal
from pykrun.krun.context import ConsolePortSpec, ConsoleSpec, Context
from pykrun.record import record
from pykrun.request import Console, Descriptor, Place, Port, Serial

STREAMS = ("krun-stdin", "krun-stdout", "krun-stderr")
"""Ports of these names are the workload's standard streams."""

Ends = tuple[int, int, int]


@record(frozen=True, slots=True, kw_only=True)
class Streams:
    """What a request says of streams and consoles.

    :param terminal: standard input and output are a terminal of the guest's, hvc0.
    """

    stdin: Descriptor | None
    stdout: Descriptor | None
    stderr: Descriptor | None
    terminal: bool = False
    console: bool = False
    console_output: Place | None = None
    consoles: tuple[Console, ...] = ()
    serials: tuple[Serial, ...] = ()


def connect(context: Context, stack: ExitStack) -> Streams:
    """Say where everything that the guest reads and writes comes from and goes to.

    The first console is the workload's: the implicit one on 0, 1 and 2, or, without it, the first that was added. The
    others are devices beside it.

    :raise Refusal: the output's file cannot be written, or a descriptor is not open.
    """
    further = list(context.consoles)
    output = None
    if context.implicit_console:
        if context.console_output is None:
            ends: Ends = (0, 1, 2)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            output = open_place(stack, "the console's output", context.console_output, flags, 0o666)
            ends = (context.nothing, output.number, output.number)
    elif further and further[0].ports is None:
        first = further.pop(0)
        ends = (first.input, first.output, first.error)
    else:
        ends = (-1, -1, -1)
    named = _named(further)
    has_first = context.implicit_console or len(further) < len(context.consoles)
    own = None if has_first or named else _take_terminal(further)
    if own is not None:
        ends = (own.input, own.output, own.output)
    ends = tuple(named.get(name, end) for name, end in zip(STREAMS, ends, strict=True))  # type: ignore[assignment]
    streams = [_stream(end, context) for end in ends]
    consoles = tuple(filter(None, (_device(index, console) for index, console in enumerate(further))))
    terminal = all(stream is not None and os.isatty(stream.number) for stream in streams[:2])
    asked = context.kernel_console is not None and context.kernel_console.startswith("hvc")
    return Streams(
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        terminal=terminal,
        console=context.implicit_console and (bool(further) or asked),
        console_output=output,
        consoles=consoles,
        serials=tuple(Serial(input=_end(one.input), output=_end(one.output)) for one in context.serials),
    )


def open_place(stack: ExitStack, what: str, path: str, flags: int = os.O_PATH, mode: int = 0) -> Descriptor:
    """Open a file of the caller's until `stack` is closed.

    :raise Refusal: EINVAL: it cannot be.
    """
    try:
        return Descriptor(keep_open(stack, os.open(path, flags | os.O_CLOEXEC, mode)))
    except OSError as error:
        raise Refusal(errno.EINVAL, f"{what} {path!r}: {error.strerror}") from None


def keep_open(stack: ExitStack, descriptor: int) -> int:
    """Return a descriptor that `stack` will close."""
    stack.callback(os.close, descriptor)
    return descriptor


def _named(consoles: list[ConsoleSpec]) -> dict[str, int]:
    """The ends of the ports that are the workload's streams; the last of a name counts, as in libkrun's guest."""
    found = {}
    for console in consoles:
        for port in console.ports or ():
            if port.name in STREAMS and not port.tty:
                found[port.name] = port.input if port.name == STREAMS[0] else port.output
    return found


def _take_terminal(consoles: list[ConsoleSpec]) -> ConsolePortSpec | None:
    """The first console's terminal, which is hvc0 and the workload's, out of its device."""
    ports = consoles[0].ports if consoles else None
    terminal = next((port for port in ports or () if port.tty), None)
    if ports is not None and terminal is not None:
        consoles[0] = ConsoleSpec(ports=[port for port in ports if port is not terminal])
    return terminal


def _stream(end: int, context: Context) -> Descriptor | None:
    """A standard stream: closed where the caller's is, nothing where no console was asked for."""
    if end < 0:
        return Descriptor(context.nothing)
    try:
        os.fstat(end)
    except OSError:
        if end > 2:
            raise Refusal(errno.EINVAL, f"a console's descriptor {end} is not open") from None
        return None
    return Descriptor(end)


def _end(descriptor: int) -> Descriptor | None:
    if descriptor < 0:
        return None
    try:
        os.fstat(descriptor)
    except OSError:
        raise Refusal(errno.EINVAL, f"a console's descriptor {descriptor} is not open") from None
    return Descriptor(descriptor)


def _device(index: int, console: ConsoleSpec) -> Console | None:
    """A device beside the workload's; None for one that has no ports left."""
    if console.ports is None:
        ends = _end(console.input), _end(console.output)
        terminal = console.input >= 0 and os.isatty(console.input)
        return Console(ports=(Port(console=True, input=ends[0], output=ends[1], terminal=terminal),))
    ports = tuple(
        Port(
            name=port.name or ("" if port.tty else f"krun-port-{index}-{number}"),
            console=port.tty,
            input=_end(port.input),
            output=_end(port.output),
            terminal=port.tty,
        )
        for number, port in enumerate(console.ports)
        if port.tty or port.name not in STREAMS
    )
    return Console(ports=ports) if ports else None
