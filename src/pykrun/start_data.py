"""What the host tells the guest's init: the one-shot file `/.krun_start.json` (docs/start-data.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from pykrun.record import field, record

PATH = b"/.krun_start.json"
VERSION = 1
RLIM_INFINITY = (1 << 64) - 1
LONGEST_GRACE = 1e6
"""Seconds; more fits neither a frame of the control port nor what init reads."""

Text = str | bytes


@record(frozen=True, slots=True, kw_only=True)
class User:
    """Whom the workload runs as (OCI runtime spec, `process.user`)."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    umask: int | None = None


@record(frozen=True, slots=True, kw_only=True)
class Address:
    """An IPv4 address of the guest and what goes with it.

    :param address: as in `10.0.0.2`.
    :param prefix: bits of its network.
    :param routes: destination, bits of it, gateway; in this form.
    :param mtu: of the interface.
    """

    address: str
    prefix: int
    routes: Sequence[tuple[str, int, str]] = ()
    mtu: int = 1500


@record(frozen=True, slots=True, kw_only=True)
class GuestMount:
    """A mount that the guest makes.

    :param kind: its type, or `root`: what the root has at `source`, which other mounts hide.
    :param destination: where.
    :param options: as words (mount(8)).
    :param source: of a `root`; empty for the destination.
    :param copy: it begins with what the root has at the destination.
    :param optional: without it the guest goes on.
    """

    kind: str
    destination: Text
    options: Sequence[str] = ()
    source: Text = ""
    copy: bool = False
    optional: bool = False


@record(frozen=True, slots=True, kw_only=True)
class StartData:
    """One workload and its surroundings in the guest. Text may be any bytes that a process may have.

    :param program: what to execute; None leaves the choice to the root's own configuration, then `/bin/sh`.
    :param arguments: the words after the program.
    :param environment: variables; the guest adds HOME, TERM and PATH where they are missing.
    :param workdir: working directory in the guest.
    :param rlimits: (RLIMIT number, soft, hard); `RLIM_INFINITY` for no limit.
    :param terminal: the workload gets `/dev/hvc0` as its terminal; `window` is its size (rows, columns).
    :param ports: names of the virtio ports that the machine has.
    :param streams: `relay`, `ports` or `console`.
    :param dhcp: the machine has a network card, `eth0`, that the guest is to configure by DHCP.
    :param network: what `eth0` is to be, without DHCP.
    :param keep_resolver: /etc/resolv.conf was given, and DHCP is to leave it alone.
    :param hold: the workload starts when the host says so (`VirtualMachine.begin`); not with `pid1`.
    :param pid1: execute the workload as PID 1, without an init.
    :param seed: entropy for the guest's kernel.
    :param root_device: block device whose file system becomes the root (`/dev/vda1`); None stays in the virtio-fs root.
    :param root_fstype: its type; None lets the guest probe.
    :param root_options: mount options, separated by commas.
    :param root_files: files of the virtio-fs root that are shown in the block device's too.
    :param root_directories: directories that are made there if they are missing.
    :param layer: a writable layer over the root, in that virtio-fs device, "" for guest memory; None for none.
    :param volumes: further virtio-fs devices: tag, where to mount it, whether it is read-only.
    :param tmpfs: file systems in the guest's memory: where, and mount options as words (mount(8), tmpfs(5)).
    :param mounts: file systems that are mounted in this order, after those.
    :param grace: seconds between TERM and KILL at the end.
    """

    program: Text | None = None
    arguments: Sequence[Text] = ()
    environment: Mapping[str, Text] = field(default_factory=dict)
    workdir: Text | None = None
    hostname: Text | None = None
    user: User | None = None
    rlimits: Sequence[tuple[int, int, int]] = ()
    terminal: bool = False
    window: tuple[int, int] | None = None
    ports: Sequence[str] = ()
    streams: str = "relay"
    hold: bool = False
    pid1: bool = False
    dhcp: bool = False
    network: Address | None = None
    keep_resolver: bool = False
    seed: bytes = b""
    root_device: str | None = None
    root_fstype: str | None = None
    root_options: str | None = None
    root_files: Sequence[Text] = ()
    root_directories: Sequence[Text] = ()
    layer: str | None = None
    volumes: Sequence[tuple[str, Text, bool]] = ()
    tmpfs: Sequence[tuple[Text, Sequence[str]]] = ()
    mounts: Sequence[GuestMount] = ()
    grace: float | None = None

    def encode(self) -> bytes:
        """The file's bytes: ASCII JSON, bytes that are not UTF-8 as lone surrogate escapes."""
        import json  # only here: half of the runs of this module's importers never encode

        document: dict[str, object] = {"version": VERSION}
        if self.program is not None:
            document["init"] = _text(self.program)
        document["argv"] = [_text(word) for word in self.arguments]
        document["env"] = [f"{_text(key)}={_text(value)}" for key, value in self.environment.items()]
        for name, value in (("workdir", self.workdir), ("hostname", self.hostname)):
            if value is not None:
                document[name] = _text(value)
        if self.user is not None:
            document["user"] = _user(self.user)
        if self.rlimits:
            document["rlimits"] = [list(limit) for limit in self.rlimits]
        if self.terminal:
            document["terminal"] = True
        if self.window is not None:
            document["window"] = list(self.window)
        document["ports"] = list(self.ports)
        document["streams"] = self.streams
        if self.hold:
            document["hold"] = True
        if self.pid1:
            document["pid1"] = True
        if self.root_device is not None:
            options = (("device", self.root_device), ("fstype", self.root_fstype), ("options", self.root_options))
            disk: dict[str, object] = {key: _text(value) for key, value in options if value is not None}
            for name, paths in (("files", self.root_files), ("directories", self.root_directories)):
                if paths:
                    disk[name] = [_text(path) for path in paths]
            document["root"] = disk
        if self.layer is not None:
            document["layer"] = {"tag": self.layer} if self.layer else {}
        if self.dhcp:
            document["dhcp"] = True
        if self.network is not None:
            document["network"] = {
                "address": self.network.address,
                "prefix": self.network.prefix,
                "routes": [list(route) for route in self.network.routes],
                "mtu": self.network.mtu,
            }
        if self.keep_resolver:
            document["keep_resolver"] = True
        if self.volumes:
            document["volumes"] = [
                {"tag": tag, "destination": _text(where), "readonly": read_only}
                for tag, where, read_only in self.volumes
            ]
        if self.tmpfs:
            document["tmpfs"] = [
                {"destination": _text(where), "options": list(options)} for where, options in self.tmpfs
            ]
        if self.mounts:
            document["mounts"] = [_mount(one) for one in self.mounts]
        if self.seed:
            document["seed"] = self.seed.hex()
        if self.grace is not None:
            document["grace_ms"] = int(self.grace * 1000)
        return json.dumps(document, separators=(",", ":")).encode("ascii")


def _text(value: Text) -> str:
    """The bytes that the text stands for, as UTF-8 with escapes: the host's locale may say something else."""
    return os.fsencode(value).decode("utf-8", "surrogateescape")


def _mount(mount: GuestMount) -> dict[str, object]:
    return {
        "type": mount.kind,
        "destination": _text(mount.destination),
        **({"options": list(mount.options)} if mount.options else {}),
        **({"source": _text(mount.source)} if mount.source else {}),
        **({"copy": True} if mount.copy else {}),
        **({"optional": True} if mount.optional else {}),
    }


def _user(user: User) -> dict[str, object]:
    document: dict[str, object] = {"uid": user.uid, "gid": user.gid}
    if user.additional_gids:
        document["additionalGids"] = list(user.additional_gids)
    if user.umask is not None:
        document["umask"] = user.umask
    return document
