"""The virtio-fs device: configuration, requests to the server and back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pykrun.virtio import FsDevice
from tests.virtio.driver import Driver


def test_config_is_the_tag_and_one_request_queue() -> None:
    device = FsDevice(b"/dev/root", lambda readable, writable: 0)
    assert device.config() == b"/dev/root".ljust(36, b"\0") + b"\1\0\0\0"
    assert (device.device_id, device.queue_count) == (26, 2)
    assert len(FsDevice(b"x" * 36, lambda readable, writable: 0).config()) == 40


@pytest.mark.parametrize("tag", [b"", b"x" * 37, b"a\0b"])
def test_wrong_tags(tag: bytes) -> None:
    with pytest.raises(ValueError, match="tag"):
        FsDevice(tag, lambda readable, writable: 0)


def test_requests_go_to_the_server_and_lengths_come_back() -> None:
    driver = Driver(16)
    seen: list[bytes] = []

    def handle(readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        seen.append(b"".join(readable))
        if not writable:
            return 0
        writable[0][:2] = b"ok"
        return 2

    device = FsDevice(b"tag", handle)
    queue = driver.queue()
    room = driver.room(16)
    driver.offer(driver.indirect([driver.place(b"header"), driver.place(b"body"), room], 0))
    driver.offer(driver.indirect([driver.place(b"forget")], 1))
    queue.refresh()
    device.serve(queue)
    queue.notify()
    assert seen == [b"headerbody", b"forget"]
    assert driver.finished() == [(0, 2), (1, 0)]
    assert driver.read(room[0], 2) == b"ok"
    queue.stop()
    driver.close()


def test_reset_reaches_the_server() -> None:
    resets: list[int] = []
    FsDevice(b"tag", lambda readable, writable: 0, reset=lambda: resets.append(1)).reset()
    FsDevice(b"tag", lambda readable, writable: 0).reset()
    assert resets == [1]
