"""Guest memory as the front end hands it over: descriptors to map, and its own addresses beside the guest's.

A descriptor is mapped only after its size was seen to cover the region. A front end that shrinks the file later (a
memfd may be sealed against that; User Mode Linux's temporary file cannot be) makes our next access a SIGBUS, which
ends this process: so one process serves the devices of one VM only, and the VM it ends is the one that did it.
"""

from __future__ import annotations

import mmap
import os
import stat

from pykrun.errors import VhostUserError
from pykrun.vhost_user.messages import MAX_REGIONS, REGION, TABLE_HEAD
from pykrun.virtio.memory import GuestMemory, Region

_ADDRESS_END = 2**64
_FILE_END = 2**63


class SharedMemory(GuestMemory):
    """The regions of one SET_MEM_TABLE, mapped.

    :param payload: the message.
    :param descriptors: one for each region; they stay the caller's.
    :raise VhostUserError: the table is not what the specification allows, or cannot be mapped.
    """

    def __init__(self, payload: bytes, descriptors: list[int]) -> None:
        table = _parse(payload)
        if len(descriptors) != len(table):
            raise VhostUserError(f"{len(table)} memory regions with {len(descriptors)} descriptors")
        _check_overlap([(guest, size) for guest, size, _, _ in table], "guest")
        _check_overlap([(user, size) for _, size, user, _ in table], "user")
        super().__init__(())
        self._users: list[tuple[int, int, Region]] = []
        regions = []
        try:
            for (guest, size, user, offset), fd in zip(table, descriptors, strict=True):
                region = _map(guest, size, offset, fd)
                regions.append(region)
                self._users.append((user, user + size, region))
        except VhostUserError:
            GuestMemory(regions).close()
            raise
        super().__init__(regions)

    def user_slice(self, address: int, length: int) -> memoryview:
        """Return a range of the front end's own addresses as a view: where the rings are.

        :raise VhostUserError: the range lies in no region, or in two.
        """
        for start, end, region in self._users:
            if start <= address and address + length <= end:
                return region.slice(region.start + address - start, length)
        raise VhostUserError(f"user address {address:#x} with {length} bytes lies in no memory region")

    def close(self) -> None:
        """Unmap everything (see `GuestMemory.close`)."""
        self._users.clear()
        super().close()


def _parse(payload: bytes) -> list[tuple[int, int, int, int]]:
    count, _padding = TABLE_HEAD.unpack_from(payload)
    if not 0 < count <= MAX_REGIONS:
        raise VhostUserError(f"{count} memory regions")
    if len(payload) < TABLE_HEAD.size + count * REGION.size:
        raise VhostUserError(f"{count} memory regions in {len(payload)} bytes")
    table: list[tuple[int, int, int, int]] = []
    for index in range(count):
        guest, size, user, offset = REGION.unpack_from(payload, TABLE_HEAD.size + index * REGION.size)
        if size == 0:
            raise VhostUserError("empty memory region")
        if guest + size > _ADDRESS_END or user + size > _ADDRESS_END or offset + size >= _FILE_END:
            raise VhostUserError("memory region goes beyond the end of its address space")
        table.append((guest, size, user, offset))
    return table


def _check_overlap(ranges: list[tuple[int, int]], whose: str) -> None:
    end = -1
    for start, size in sorted(ranges):
        if start < end:
            raise VhostUserError(f"memory regions overlap in {whose} addresses")
        end = start + size


def _map(guest: int, size: int, offset: int, fd: int) -> Region:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise VhostUserError("memory region is not a file")
    if offset + size > status.st_size:
        raise VhostUserError(f"memory region ends at {offset + size:#x}, its file at {status.st_size:#x}")
    inside = offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapping = mmap.mmap(
            fd, inside + size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset - inside
        )
    except (OSError, ValueError, OverflowError) as error:
        raise VhostUserError(f"memory region cannot be mapped: {error}") from None
    return Region(guest, size, mapping, inside)
