"""The host's seed for the kernel's random number generator, so that nothing ever waits for randomness."""

from __future__ import annotations

import fcntl
import posix

from krun_init.errors import reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.log import Log

_RNDADDENTROPY = 0x40085203  # uapi/linux/random.h: struct rand_pool_info, two ints and the bytes


def credit(seed: bytes, path: str, log: Log) -> None:
    """Give the seed to the kernel and count every bit of it as random."""
    if not seed:
        return
    size = len(seed)
    info = (size * 8).to_bytes(4, "little") + size.to_bytes(4, "little") + seed
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _RNDADDENTROPY, info)
        finally:
            posix.close(fd)
    except OSError as error:
        log.warn(f"the seed was not credited: {reason_of(error)}")
