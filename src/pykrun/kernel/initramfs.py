"""Stage one: the initramfs that takes a modular kernel into its virtio-fs root (docs/start-data.md, "Stage one")."""

from __future__ import annotations

from pathlib import Path

from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory, keep, kept, stamp
from pykrun.machine import Kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.kernel.cpio import Entry
    from pykrun.kernel.modules import ModuleTree

_VERSION = 4  # of the layout; part of the cache key
_KEEP = 8

TRANSPORTS = ("virtio_pci", "virtio_mmio")
"""Loaded where the kernel has them: User Mode Linux has its own transport built in."""

NEEDED = ("virtiofs", "virtio_console")
"""What every machine of ours boots from and speaks through."""

NETWORK = ("virtio_net", "ipv6")
"""What a machine with a network needs beside; `ipv6` only where the kernel has it as a module."""

VSOCK = ("vmw_vsock_virtio_transport",)
"""What a machine with vsock needs beside."""

LAYER = ("overlay",)
"""What a writable layer over the root needs."""

OPTIONAL = ("ipv6",)
"""Modules that a kernel may lack."""

KMSG = (1, 11)
"""What init gets as its console: the kernel's log, which reaches whatever console the engine has.

User Mode Linux has no terminal as its console here (`pykrun.engine.uml`).
"""


def initramfs(
    kernel: Kernel, blob: Path, extra: tuple[str, ...] = (), file_systems: tuple[str, ...] = ()
) -> Path | None:
    """Return the archive that boots `kernel`, made now or before; None when it needs none.

    :param blob: the init blob, which becomes /init.
    :param extra: further modules.
    :param file_systems: names of file systems of which the root may have one: what the kernel has of them is loaded.
    :raise MissingError: the kernel lacks a module, or all of the file systems; the cache folder cannot be written.
    """
    if kernel.modules is None:
        return None
    folder = cache_directory() / "initramfs"
    try:
        marks = [kernel.modules / name for name in ("modules.builtin", "modules.order", "kernel")]
        key = stamp(kernel.image, blob, *(mark for mark in marks if mark.exists()))
    except OSError as error:
        raise MissingError(f"{error.filename}: {error.strerror}") from None
    path = folder / f"{_VERSION}-{'+'.join((*extra, *file_systems))}-{key}.cpio"
    found = kept(path)
    if found is not None:
        return None if found.stat().st_size == 0 else found
    content = _content(kernel.modules, blob, extra, file_systems)
    try:
        found = keep(path, content)
    except OSError as error:
        raise MissingError(
            f"cannot write {path}: {error.strerror}", "set XDG_CACHE_HOME to a writable folder"
        ) from None
    _prune(found.parent)
    return found if content else None


def _content(modules: Path, blob: Path, extra: tuple[str, ...], file_systems: tuple[str, ...]) -> list[bytes]:
    """The archive's bytes; nothing when there is nothing to load."""
    from pykrun.kernel import cpio
    from pykrun.kernel.modules import ModuleTree
    from pykrun.kernel.strip import without_debug

    tree = ModuleTree(modules)
    wanted = (
        *(name for name in TRANSPORTS[:1] if name in tree),
        *NEEDED,
        *(name for name in extra if name in tree or name not in OPTIONAL),
        *_of_file_systems(tree, file_systems),
    )
    order = tree.load_order(wanted)
    if not order:
        return []
    entries = [
        *console(),
        cpio.folder("mnt"),
        cpio.folder("stage1"),
    ]
    entries += [
        cpio.file(f"stage1/{index:02}-{name}.ko", without_debug(data)) for index, (name, data) in enumerate(order)
    ]
    entries.append(cpio.file("init", blob.read_bytes(), 0o755))
    return list(cpio.archive(entries))


def _of_file_systems(tree: ModuleTree, names: tuple[str, ...]) -> list[str]:
    """The modules of those file systems that the kernel has.

    :raise MissingError: it has none of them.
    """
    from pykrun.kernel.filesystems import COMPANIONS, modules_of

    found = {name: [module for module in modules_of(name) if module in tree] for name in names}
    if names and not any(found.values()):
        raise MissingError(f"this kernel has no file system {' or '.join(names)}", "name another one by --kernel")
    companions = [module for name in names if found[name] for module in COMPANIONS.get(name, ()) if module in tree]
    return [*companions, *(module for modules in found.values() for module in modules)]


def console() -> list[Entry]:
    """Return the entries that make the kernel's log init's console.

    The empty file takes the place of the node that the kernel brings itself; a node would not replace a node.
    """
    from pykrun.kernel import cpio

    return [
        cpio.folder("dev"),
        cpio.file("dev/console", b""),
        cpio.character_device("dev/console", *KMSG),
    ]


def _prune(folder: Path) -> None:
    """Forget the oldest archives: each new blob or kernel brings another."""
    try:
        files = sorted(folder.glob("*.cpio"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in files[_KEEP:]:
            path.unlink(missing_ok=True)
    except OSError:
        pass  # somebody else is at it
