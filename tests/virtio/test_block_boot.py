"""The block device under a real kernel: what the driver makes of its features, and that it flushes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pykrun.vhost_user import UML_FEATURES
from pykrun.virtio import RING_FEATURES
from pykrun.virtio.block import T_FLUSH, BlockDevice
from pykrun.virtio.device import F_EVENT_IDX
from tests.virtio import guests
from tests.virtio.test_boot import UML_TIMEOUT, Host

SIZE = 16 << 20
FLUSHES = 50

SCRIPT = f"""
mount -t devtmpfs dev /dev; mount -t sysfs sys /sys; mount -t proc proc /proc
queue=/sys/block/vda/queue
echo size $(cat /sys/block/vda/size) cache $(cat $queue/write_cache) block $(cat $queue/logical_block_size)
echo segments $(cat $queue/max_segments) discard $(cat $queue/discard_max_bytes) $(cat $queue/discard_granularity)
echo zeroes $(cat $queue/write_zeroes_max_bytes) serial $(cat /sys/block/vda/serial)
echo sum $(md5sum < /dev/vda)
i=0; while [ $i -lt {FLUSHES} ]; do
  dd if=/dev/zero of=/dev/vda bs=512 count=1 seek=$i conv=fsync,notrunc 2>/dev/null; i=$((i+1))
done
dd if=/dev/vda of=/dev/vda bs=1M skip=1 seek=9 count=4 conv=notrunc 2>/dev/null
echo 3 > /proc/sys/vm/drop_caches
echo sum $(md5sum < /dev/vda)
"""


class Counting(BlockDevice):
    """Counts the requests of each kind."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, SIZE, serial="counting")
        self.counts: dict[int, int] = {}
        for kind, work in self._work.items():
            self._work[kind] = self._counted(kind, work)

    def _counted(self, kind, work):  # type: ignore[no-untyped-def]
        def counted(*arguments):  # type: ignore[no-untyped-def]
            self.counts[kind] = self.counts.get(kind, 0) + 1
            return work(*arguments)

        return counted


@pytest.mark.uml
@pytest.mark.parametrize("ring_features", [RING_FEATURES, RING_FEATURES & ~F_EVENT_IDX], ids=["event_idx", "plain"])
def test_uml(tmp_path: Path, ring_features: int) -> None:
    content = bytearray(os.urandom(SIZE))
    (tmp_path / "image").write_bytes(content)
    fd = os.open(tmp_path / "image", os.O_RDWR)
    device = Counting(fd)
    host = Host(UML_TIMEOUT)
    with guests.uml(SCRIPT, {"disk": 2}, {"disk": host.serve(device, UML_FEATURES, ring_features)}) as process:
        said = host.run(process)
    host.close()
    os.close(fd)
    assert f"size {SIZE // 512} cache write back block 512" in said
    assert "segments 254 discard 2147483648 4096" in said
    assert "zeroes 67108864 serial counting" in said
    assert f"sum {hashlib.md5(content).hexdigest()}" in said
    content[: FLUSHES * 512] = bytes(FLUSHES * 512)
    content[9 << 20 : 13 << 20] = content[1 << 20 : 5 << 20]
    assert f"sum {hashlib.md5(content).hexdigest()}" in said
    assert (tmp_path / "image").read_bytes() == content
    assert device.counts[T_FLUSH] == FLUSHES
    assert (host.ends, host.broken) == ([None], [])
