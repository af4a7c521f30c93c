"""Guest memory as a device sees it: regions of guest-physical addresses, each a slice of a mapping."""

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap

from pykrun.errors import VirtqueueError


class Region:
    """One range of guest-physical addresses that lies in one mapping.

    :param start: the first guest-physical address.
    :param size: bytes.
    :param mapping: holds the bytes; the region owns it.
    :param offset: where in the mapping the region starts.
    """

    __slots__ = ("end", "mapping", "offset", "start", "view")

    def __init__(self, start: int, size: int, mapping: mmap, offset: int = 0) -> None:
        self.start = start
        self.end = start + size
        self.mapping = mapping
        self.offset = offset
        self.view = memoryview(mapping)[offset : offset + size]

    def slice(self, address: int, length: int) -> memoryview:
        """Return the bytes from a guest-physical address, which the caller knows to lie inside."""
        start = address - self.start
        return self.view[start : start + length]


class GuestMemory:
    """All regions of a guest, the largest first: nearly every address lies there."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = sorted(regions, key=lambda region: region.start - region.end)

    def find(self, address: int, length: int) -> Region:
        """Return the one region that holds all of a range.

        :raise VirtqueueError: the range is not memory, or spans two regions.
        """
        for region in self.regions:
            if region.start <= address and address + length <= region.end:
                return region
        raise VirtqueueError(f"guest address {address:#x} with {length:#x} bytes lies in no memory region")

    def slice(self, address: int, length: int) -> memoryview:
        """Return a range of guest-physical addresses as a view.

        :raise VirtqueueError: the range is not memory, or spans two regions.
        """
        return self.find(address, length).slice(address, length)

    def close(self) -> None:
        """Unmap everything, at once.

        Whoever holds a view of this memory must have released it: a mapping that is still looked at stays mapped until
        the last view is gone, as anything else would be a segmentation fault.
        """
        regions, self.regions = self.regions, []
        for region in regions:
            region.view.release()
            try:
                region.mapping.close()
            except BufferError:  # a view escaped; the mapping goes with it
                pass
