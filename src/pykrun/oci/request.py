"""From a bundle to what a supervisor is asked to run."""

from __future__ import annotations

import os

from pykrun.errors import UsageError
from pykrun.oci.bundle import Bundle
from pykrun.plain_json import dumps
from pykrun.request import Descriptor, Entry, Request, Tree
from pykrun.start_data import GuestMount, StartData

DEFAULT_MEMORY = 1024
"""MiB of a VM when nobody sets a limit, as crun's krun handler has it; the host gives what the guest touches."""
SMALLEST_MEMORY = 96
"""MiB; with a lower limit a guest would not boot."""
_CONTAINER_TYPES = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
_CONFIG = b"/.krun_config.json"


def make_request(bundle: Bundle, folder: str, mounts: list[GuestMount]) -> Request:
    """Say what is to be run.

    :param folder: the root file system, composed.
    :param mounts: what the guest is to mount.
    :raise UsageError: an annotation is wrong.
    """
    process = bundle.process
    assert process is not None, "checked before"
    config = dumps({"ociVersion": bundle.version, "process": process.document}).encode()
    network = None
    if bundle.network not in ("none", "host") and not _is_sandbox(bundle):
        from pykrun.oci.network import card

        network = card()
    resolver = any(mount.kind == "bind" and mount.destination == "/etc/resolv.conf" for mount in bundle.mounts)
    engine = _choice(bundle, "engine", ("auto", "uml", "qemu"))
    accel = _choice(bundle, "accel", ("auto", "kvm", "tcg"))
    if bundle.annotations.get("pykrun.kernel"):  # with User Mode Linux a program that would run on this host
        raise UsageError(
            "annotation pykrun.kernel is not taken, for whoever makes an image may set annotations",
            "set PYKRUN_KERNEL in the environment of the runtime's caller",
        )
    kernel = os.environ.get("PYKRUN_KERNEL") or None
    return Request(
        start=StartData(
            hostname=bundle.hostname or None,
            terminal=process.terminal,
            mounts=mounts,
            hold=True,
            network=network[1] if network else None,
            keep_resolver=resolver,
        ),
        root=Tree(directory=folder, entries=(Entry(path=_CONFIG, content=config, one_shot=True),)),
        engine=engine,
        accel=accel,
        kernel=kernel,
        cpus=_cpus(bundle, engine, accel, kernel),
        memory_mib=_memory(bundle),
        network=bundle.network == "host",
        network_optional=True,
        escape=False,
        name=None,
        links=(network[0],) if network else (),
        stdin=Descriptor(0),
        stdout=Descriptor(1),
        stderr=Descriptor(1 if process.terminal else 2),
    )


def _choice(bundle: Bundle, name: str, known: tuple[str, ...]) -> str:
    """The environment's, else the annotation's: an image may bring annotations, and is not asked when somebody was."""
    variable, annotation = f"PYKRUN_{name.upper()}", f"pykrun.{name}"
    words = {
        variable: os.environ.get(variable) or "auto",
        f"annotation {annotation}": bundle.annotations.get(annotation) or "auto",
    }
    for where, word in words.items():
        if word not in known:
            raise UsageError(f"{where} is {word!r}; there are {', '.join(known)}")
    return next((word for word in words.values() if word != "auto"), "auto")


def _number(bundle: Bundle, name: str, largest: int) -> int | None:
    word = bundle.annotations.get(name, "")
    if not word:
        return None
    if not (word.isascii() and word.isdigit() and len(word) < 20 and 1 <= int(word) <= largest):
        raise UsageError(f"annotation {name} must be a number from 1 to {largest}, not {word!r}")
    return int(word)


def _memory(bundle: Bundle) -> int:
    """MiB: the annotation's, else the limit's, else the default; never more than this machine has."""
    asked = _number(bundle, "krun.ram_mib", 1 << 24)
    if asked is not None:
        return asked
    limit = (bundle.limits.memory or 0) >> 20
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return min(max(limit, SMALLEST_MEMORY) if limit > 0 else DEFAULT_MEMORY, host)


def _cpus(bundle: Bundle, engine: str, accel: str, kernel: str | None) -> int | None:
    """The annotation's, else what the quota is worth, rounded up, if that is to be had for it; None for one.

    A quota is a limit, and no wish: an emulated machine has any number of processors, but one that is not is faster.
    """
    asked = _number(bundle, "krun.cpus", 255)
    if asked is not None:
        return asked
    quota, period = bundle.limits.cpu_quota or 0, bundle.limits.cpu_period or 100_000
    wanted = -(-quota // period)
    if wanted < 2:
        return None
    from pykrun import engine as engines

    chosen = engines.choose(engine, accel, None, kernel)
    return min(wanted, chosen.max_cpus)


def _is_sandbox(bundle: Bundle) -> bool:
    """Whether it is a pod's first container, which holds its namespaces and does nothing; podman's is not annotated."""
    if bundle.process is not None and bundle.process.arguments == ("/catatonit", "-P"):
        return True
    return any(bundle.annotations.get(name) == "sandbox" for name in _CONTAINER_TYPES)
