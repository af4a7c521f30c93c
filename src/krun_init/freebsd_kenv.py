"""What the host says in the variables of FreeBSD's kernel (kenv(2)): init's own environment is empty.

They come from the loader, or from the kernel's command line: 512 bytes in libkrun's machines, at most 127 of them for
one NAME=VALUE. It is split at white space, on some ways also at commas, so a workload's words come as base64.
"""

from __future__ import annotations

from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.freebsd_system import System

NAMES = (
    "HOSTNAME",
    "KRUN_CONFIG",
    "KRUN_HOME",
    "KRUN_INIT",
    "KRUN_INIT_PID1",
    "KRUN_RLIMITS",
    "KRUN_TERM",
    "KRUN_WORKDIR",
)
ARGV = "KRUN_INIT_ARGV"
CHUNKS = 32
"""More than the command line has room for."""

_LONGEST = 128  # KENV_MVALLEN, sys/kenv.h
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def variables(system: System) -> dict[bytes, bytes]:
    """The variables that are init's, as an environment.

    :raise InitError: one is too long.
    """
    found = {}
    for name in NAMES:
        value = _get(system, name)
        if value is not None:
            found[name.encode()] = value
    return found


def words(system: System) -> list[str] | None:
    """The workload's words, None when there are none: NUL between them, base64, in KRUN_INIT_ARGV0, 1, 2 and so on.

    :raise InitError: a chunk is missing or too long, or there are too many, or together they are no base64.
    """
    chunks = [_get(system, f"{ARGV}{index}") for index in range(CHUNKS + 1)]
    present = [chunk for chunk in chunks if chunk is not None]
    if not present:
        return None
    if chunks[CHUNKS] is not None:
        raise InitError(f"kernel variable {ARGV}{CHUNKS}: there can be {CHUNKS} chunks of words")
    if None in chunks[: len(present)]:
        raise InitError(f"kernel variable {ARGV}{chunks.index(None)} is missing, but one behind it is there")
    try:
        data = decode(b"".join(present))
    except ValueError as error:
        raise InitError(f"kernel variables {ARGV}0 to {len(present) - 1}: {error}") from None
    return [str(word, "utf-8", "surrogateescape") for word in data.split(b"\0")]


def decode(text: bytes) -> bytes:
    """Base64 with its padding (RFC 4648, section 4).

    :raise ValueError: it is not.
    """
    digits = text.rstrip(b"=")
    if len(text) % 4 or len(text) - len(digits) > 2:
        raise ValueError("base64 comes in groups of four characters")
    bits = 0
    for position, digit in enumerate(digits):
        value = _BASE64.find(digit)
        if value < 0:
            raise ValueError(f"no base64 (character {position})")
        bits = bits << 6 | value
    size, unused = divmod(6 * len(digits), 8)
    if bits & (1 << unused) - 1:
        raise ValueError("base64 that ends in bits which mean nothing")
    return (bits >> unused).to_bytes(size, "big")


def _get(system: System, name: str) -> bytes | None:
    try:
        value = system.kenv(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InitError(f"kernel variable {name}: {reason_of(error)}") from None
    if len(value) > _LONGEST:
        raise InitError(f"kernel variable {name} has more than {_LONGEST} bytes")
    return value
