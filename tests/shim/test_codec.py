"""Requests and outcomes on their way from one process to the other."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from pykrun.net import Publish
from pykrun.request import Descriptor, DiskImage, Entry, Outcome, Request, Tree, Volume
from pykrun.shim.codec import Encoder, decode
from pykrun.shim.events import Ended, Failed, Named, Reached
from pykrun.shim.wire import Receiver, send
from pykrun.start_data import StartData, User


def there_and_back(value: object) -> object:
    """Through a real socket."""
    ours, theirs = socket.socketpair()
    encoder = Encoder()
    receiver = Receiver(theirs)
    with ours, theirs:
        message = encoder.encode(value)
        send(ours, message, encoder.descriptors)
        encoder.close()
        while (taken := receiver.take()) is None:
            receiver.fetch()
    return decode(*taken)


FULL = Request(
    start=StartData(
        program=b"/bin/\xff",
        arguments=["a", "ü", b"\xfe"],
        environment={"A": "1", "B": b"\xfd"},
        user=User(uid=1, gid=2, additional_gids=(3, 4), umask=0o22),
        rlimits=[(7, 1, (1 << 64) - 1)],
        window=(24, 80),
        tmpfs=((b"/t", ("size=1",)),),
        grace=1.5,
    ),
    root=Tree(directory="/", read_only=True, cache="never", directories=((b"/a", 0o700),)),
    volumes=(Volume(tree=Tree(directory=b"/tmp"), where=b"/x", tag="tag"), Volume(tree=Tree())),
    disks=(DiskImage(image="/image", read_only=True, format="qcow2", serial="s"),),
    kernel_args=("quiet",),
    cpus=2,
    publish=(Publish("::1", 80, 8080, 3, "udp"),),
    timeout=0.5,
)


def test_every_member_arrives() -> None:
    got = there_and_back(FULL)
    assert isinstance(got, Request)
    assert got.start.encode() == FULL.start.encode()
    assert (got.root, got.volumes, got.disks, got.publish) == (FULL.root, FULL.volumes, FULL.disks, FULL.publish)
    assert (got.cpus, got.timeout, got.kernel_args) == (2, 0.5, ("quiet",))


@pytest.mark.parametrize(
    "event",
    [
        Reached("init", 1.25),
        Named("calm-otter"),
        Failed("UsageError", "what", "do"),
        Ended(Outcome(exit_code=3, signal=9, reason="r", console=("a",), log=((1, "x"),), phases={"start": 1.0})),
    ],
)
def test_events_arrive(event: object) -> None:
    assert there_and_back(event) == event


def test_a_message_without_descriptors_is_sent_at_once() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps what was sent at once apart
    with ours, theirs:
        send(ours, ("a", 1))
        receiver = Receiver(theirs)
        receiver.fetch()
        assert receiver.take() == (("a", 1), [])


def test_descriptors_arrive_as_the_same_files_however_many_there_are() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    pipes = [os.pipe() for _ in range(300)]
    try:
        entries = tuple(Entry(path=b"/%d" % index, source=Descriptor(pipe[0])) for index, pipe in enumerate(pipes))
        got = there_and_back(Tree(entries=entries))
        assert isinstance(got, Tree)
        for (ours, _), entry in zip(pipes, got.entries, strict=True):
            assert isinstance(entry.source, Descriptor)
            assert entry.source.number != ours
            assert os.fstat(entry.source.number).st_ino == os.fstat(ours).st_ino
            os.close(entry.source.number)
    finally:
        for pipe in pipes:
            os.close(pipe[0])
            os.close(pipe[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 3_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("one_shot", [False, True])
def test_contents_arrive(size: int, kind: type, one_shot: bool) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    got = there_and_back(Entry(path=b"/x", content=kind(content), one_shot=one_shot))
    assert isinstance(got, Entry)
    assert (got.mode, got.one_shot) == (0o400 if one_shot else 0o644, one_shot)
    if isinstance(got.source, Descriptor):
        with open(got.source.number, "rb") as stream:
            stream.seek(0)
            assert stream.read() == content
    else:
        assert not one_shot  # secrets travel in files of their own
        assert got.content == content


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match="object cannot be sent"):
        Encoder().encode(Tree(directory=object()))  # type: ignore[arg-type]


def test_the_other_sides_end_is_seen() -> None:
    ours, theirs = socket.socketpair()
    receiver = Receiver(theirs)
    with theirs:
        ours.sendall(b"half a hea")
        ours.close()
        receiver.fetch()
        assert receiver.take() is None
        receiver.fetch()
        assert receiver.ended
