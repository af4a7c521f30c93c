"""A bundle's config.json, read and checked (runtime-spec 1.0.2). Unknown fields are ignored, as it asks."""

from __future__ import annotations

import os

from pykrun.errors import UsageError
from pykrun.oci.fields import Fields
from pykrun.oci.process import Process, read_process
from pykrun.plain_json import loads
from pykrun.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONFIG = "config.json"
STAGES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_LARGEST = (1 << 63) - 1
_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")


@record(frozen=True, slots=True, kw_only=True)
class Mount:
    """One entry of `mounts`.

    :param destination: absolute, in the container.
    :param source: of a bind mount, absolute; of others whatever was said.
    """

    destination: str
    kind: str
    source: str
    options: tuple[str, ...]


@record(frozen=True, slots=True, kw_only=True)
class Hook:
    """A program to run at a point of the container's life.

    :param timeout: seconds, None for as long as it takes.
    """

    path: str
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    timeout: int | None


@record(frozen=True, slots=True, kw_only=True)
class Limits:
    """What `linux.resources` asks for; None where it does not say. Memory in bytes, -1 for no limit."""

    memory: int | None = None
    swap: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpus: str = ""
    pids: int | None = None


@record(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a container is to be.

    :param folder: the bundle, absolute.
    :param root: the root file system, absolute.
    :param network: `none` (a network namespace of its own, with nothing in it), `host`, or the path of a namespace.
    :param process: None when there is none: then the container cannot be started.
    """

    folder: str
    version: str
    root: str
    read_only: bool
    process: Process | None
    hostname: str
    mounts: tuple[Mount, ...]
    hooks: dict[str, tuple[Hook, ...]]
    annotations: dict[str, str]
    network: str
    cgroup: str
    limits: Limits


def read_bundle(folder: str) -> Bundle:
    """Read a bundle.

    :raise UsageError: there is none, or its config.json says what cannot be: with the field.
    """
    folder = os.path.abspath(folder)
    path = os.path.join(folder, CONFIG)
    try:
        with open(path, "rb") as file:
            fields = Fields(CONFIG, loads(file.read()))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "--bundle names the folder with config.json") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    version = fields.needed("ociVersion")
    if version.split(".")[0] != "1":
        raise fields.refuse("ociVersion", f"is {version!r}; this runtime knows 1.x")
    root = fields.child("root")
    if "root" not in fields:
        raise UsageError(f"{CONFIG}: root is missing")
    linux = fields.child("linux")
    _refuse_foreign(fields, linux)
    return Bundle(
        folder=folder,
        version=version,
        root=_root(folder, root),
        read_only=root.flag("readonly"),
        process=read_process(fields.child("process")) if "process" in fields else None,
        hostname=_hostname(fields),
        mounts=tuple(_mount(folder, entry) for entry in fields.children("mounts")),
        hooks=_hooks(fields.child("hooks")),
        annotations=fields.table("annotations"),
        network=_network(linux),
        cgroup=linux.text("cgroupsPath"),
        limits=read_limits(linux.child("resources")),
    )


def _refuse_foreign(fields: Fields, linux: Fields) -> None:
    """What a VM of ours cannot be."""
    for system in ("windows", "solaris", "vm", "zos"):
        if system in fields:
            raise fields.refuse(system, "cannot be: this runtime runs Linux containers")
    for name in ("uidMappings", "gidMappings"):
        for entry in linux.children(name):
            inside, outside = (entry.number(key, 0, (1 << 32) - 1) or 0 for key in ("containerID", "hostID"))
            entry.number("size", 0, 1 << 32)
            if inside != outside:
                raise linux.refuse(name, "cannot be: the ids of a VM are not mapped to others of the host")
    if linux.text("intelRdt") if isinstance(linux.all.get("intelRdt"), str) else "intelRdt" in linux:
        raise linux.refuse("intelRdt", "is not supported")
    for index, device in enumerate(linux.children("devices")):
        path = device.needed("path")
        if path not in DEFAULT_DEVICES:
            raise UsageError(
                f"{CONFIG}: linux.devices[{index}]: {path} cannot be: devices of the host do not reach a VM",
                "run without --device and without --privileged",
            )


DEFAULT_DEVICES = frozenset(
    f"/dev/{name}"
    for name in ("null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "fuse", "net/tun")
)
"""What every container has, here from the guest's kernel (fuse and tun where it has them)."""


def _root(folder: str, root: Fields) -> str:
    path = os.path.join(folder, root.needed("path"))
    if not os.path.isdir(path):
        reason = "is not there" if not os.path.lexists(path) else "is no directory"
        raise root.refuse("path", f"{reason}: {path}")
    return os.path.realpath(path)


def _hostname(fields: Fields) -> str:
    name = fields.text("hostname")
    if len(name.encode()) > 64:
        raise fields.refuse("hostname", "is longer than 64 bytes")
    return name


def _mount(folder: str, entry: Fields) -> Mount:
    destination = entry.needed("destination")
    options = tuple(entry.texts("options"))
    kind = entry.text("type")
    if "bind" in options or "rbind" in options:
        kind = "bind"
    source = entry.text("source")
    if kind == "bind":
        source = os.path.join(folder, entry.needed("source"))
    elif not kind:
        raise UsageError(f"{entry.where}.type is missing")
    return Mount(
        # The specification says absolute; what podman 4 and old bundles leave relative means the root.
        destination=os.path.normpath("/" + destination.lstrip("/")),
        kind=kind,
        source=source,
        options=options,
    )


def _hooks(fields: Fields) -> dict[str, tuple[Hook, ...]]:
    if fields.children("startContainer"):
        raise fields.refuse("startContainer", "is not supported: it would have to run in the guest")
    return {stage: tuple(map(read_hook, fields.children(stage))) for stage in STAGES if stage in fields}


def read_hook(entry: Fields) -> Hook:
    """Read one hook.

    :raise UsageError: a field is wrong.
    """
    path = entry.needed("path")
    if not path.startswith("/"):
        raise entry.refuse("path", f"must be absolute, not {path!r}")
    return Hook(
        path=path,
        arguments=tuple(entry.texts("args")) or (path,),
        environment=tuple(entry.texts("env")),
        timeout=entry.number("timeout", 1, _LARGEST),
    )


def hook_document(hook: Hook) -> dict[str, Any]:
    """The object that `read_hook` reads as this hook."""
    document = {"path": hook.path, "args": list(hook.arguments), "env": list(hook.environment)}
    return document if hook.timeout is None else {**document, "timeout": hook.timeout}


def _network(linux: Fields) -> str:
    network = "host"
    for entry in linux.children("namespaces"):
        kind, path = entry.needed("type"), entry.text("path")
        if kind not in _NAMESPACES:
            raise entry.refuse("type", f"is {kind!r}; there are {', '.join(_NAMESPACES)}")
        if path and not path.startswith("/"):
            raise entry.refuse("path", f"must be absolute, not {path!r}")
        if kind == "network":
            network = path or "none"
    # This process' own namespace by its path is the host's all the same: nobody's VM may take its interface.
    return "host" if network.startswith("/") and _is_own_network(network) else network


def _is_own_network(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.stat("/proc/self/ns/net"))
    except OSError:
        return False


def read_limits(resources: Fields) -> Limits:
    """Read `linux.resources`, also that of the verb `update`.

    :raise UsageError: a field is wrong.
    """
    memory, cpu, pids = (resources.child(name) for name in ("memory", "cpu", "pids"))
    return Limits(
        memory=memory.number("limit", -1, _LARGEST),
        swap=memory.number("swap", -1, _LARGEST),
        cpu_quota=cpu.number("quota", -_LARGEST, _LARGEST),
        cpu_period=cpu.number("period", 0, _LARGEST),
        cpu_shares=cpu.number("shares", 0, _LARGEST),
        cpus=cpu.text("cpus"),
        pids=pids.number("limit", -_LARGEST, _LARGEST),
    )
