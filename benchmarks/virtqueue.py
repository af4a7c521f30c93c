"""What one request costs in the ring alone: pop, push and notify with a handler that does nothing, CPU time.

No VM: a driver in the same process fills the ring between measurements. The shapes are those of Linux's virtio-fs: an
indirect table with a header and arguments to read, and a header and a body to write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from benchmarks.harness import Benchmark, Limit, Options, Table, interleave
from pykrun.virtio import FsDevice
from tests.virtio.driver import Driver

BATCH = 50
REQUESTS = 2000
SMALL_LIMIT = 1.2  # us, CPU: the ring's share of a request, next to about 2 us of the file server

Shape = Callable[[Driver, int], None]


def small(driver: Driver, slot: int) -> None:
    """GETATTR or LOOKUP: two buffers to read, two to write."""
    driver.indirect([driver.place(bytes(40)), driver.place(bytes(16)), driver.room(16), driver.room(104)], slot)


def scattered(driver: Driver, slot: int) -> None:
    """READ of 128 KiB into 32 pages, none beside another."""
    pages = [(driver.allocate(8192, 4096), 4096, True) for _ in range(32)]
    driver.indirect([driver.place(bytes(40)), driver.place(bytes(40)), driver.room(16), *pages], slot)


def contiguous(driver: Driver, slot: int) -> None:
    """READ of 128 KiB into 32 pages that are neighbours."""
    start = driver.allocate(32 * 4096, 4096)
    pages = [(start + 4096 * number, 4096, True) for number in range(32)]
    driver.indirect([driver.place(bytes(40)), driver.place(bytes(40)), driver.room(16), *pages], slot)


def direct(driver: Driver, slot: int) -> None:
    """A console buffer: one descriptor in the ring's own table."""
    driver.direct([driver.room(4096)], slot)


class Subject:
    """A ring and a device that answers nothing."""

    def __init__(self, shape: Shape, *, event_idx: bool, known: bool, batch: int = BATCH) -> None:
        self.driver = Driver(256, 64 << 20)
        for slot in range(BATCH):
            shape(self.driver, slot)
        self.queue = self.driver.queue(event_idx=event_idx)
        call = os.eventfd(0, os.EFD_NONBLOCK)
        self.queue.tell = partial(os.write, call, (1).to_bytes(8, "little"))
        self.device = FsDevice(b"bench", lambda readable, writable: 16)
        self.known = known
        self.batch = batch

    def measure(self) -> float:
        """Return microseconds of CPU a request."""
        driver, queue, device = self.driver, self.queue, self.device
        spent = 0
        for _ in range(REQUESTS // self.batch):
            if not self.known:
                queue.forget()
            driver.set_used_event(queue.position + self.batch - 1)
            driver.offer(*range(self.batch))
            before = time.process_time_ns()
            queue.refresh()
            device.serve(queue)
            queue.notify()
            spent += time.process_time_ns() - before
        return spent / REQUESTS / 1e3


SUBJECTS: dict[str, tuple[Shape, bool, bool, int]] = {
    "4 buffers": (small, False, True, BATCH),
    "4 buffers, EVENT_IDX": (small, True, True, BATCH),
    "4 buffers, EVENT_IDX, one a batch": (small, True, True, 1),
    "4 buffers, table not seen before": (small, True, False, BATCH),
    "one buffer, direct": (direct, True, True, BATCH),
    "35 buffers, scattered": (scattered, True, True, BATCH),
    "35 buffers, scattered, not seen before": (scattered, True, False, BATCH),
    "35 buffers, neighbours, not seen before": (contiguous, True, False, BATCH),
}


def run(options: Options) -> Table:
    """Measure all shapes in turns."""
    subjects = {
        name: Subject(shape, event_idx=event, known=known, batch=batch)
        for name, (shape, event, known, batch) in SUBJECTS.items()
    }
    series = interleave(options.rounds_or(15), {name: subject.measure for name, subject in subjects.items()})
    table = Table(
        title="virtqueue: CPU of the ring per request, no VM, no file server",
        series=series,
        unit="us",
        notes=("batches of 50 with one call (an eventfd write) each, unless the name says otherwise",),
    )
    limit = Limit("4 buffers, EVENT_IDX: us of CPU a request", table.of("4 buffers, EVENT_IDX").median, SMALL_LIMIT)
    return Table(title=table.title, series=series, unit="us", notes=table.notes, limits=(limit,))


BENCHMARK = Benchmark("virtqueue", "the ring's share of a request, without a VM", run)
