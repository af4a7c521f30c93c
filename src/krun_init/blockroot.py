"""Block roots: mount the device that KRUN_BLOCK_ROOT_DEVICE names (TEE builds: /dev/vda) and make it the root.

Not in this build; this is their place.
"""

from __future__ import annotations

from krun_init.errors import InitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def enter(words: Mapping[str, str]) -> None:
    """Go on in the block device's file system, if one was asked for.

    :raise InitError: one was asked for.
    """
    device = words.get("KRUN_BLOCK_ROOT_DEVICE")
    if device:
        raise InitError(f"KRUN_BLOCK_ROOT_DEVICE={device}: block roots are not in this build")
