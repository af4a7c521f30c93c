"""A kernel's modules folder: what is built in, what has to be loaded, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun.errors import MissingError
from pykrun.kernel.filesystems import PROVIDERS

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_LIMIT = 64 << 20  # of one unpacked module


def module_name(path: str) -> str:
    """Return the name that the kernel knows a module file by: `virtio-net.ko.xz` is `virtio_net`."""
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


class ModuleTree:
    """`/lib/modules/<release>`, or a folder laid out like it."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        :raise MissingError: it is no modules folder.
        """
        self.folder = folder
        self.builtin = {module_name(line) for line in _lines(folder / "modules.builtin")}
        listed = _lines(folder / "modules.dep") or _lines(folder / "modules.order")
        names = [line.partition(":")[0] for line in listed] or _walk(folder)
        self._files = {module_name(name): folder / name for name in names}
        if not self._files and not self.builtin:
            raise MissingError(f"{folder} holds no kernel modules", "name the folder that holds `kernel/` by --modules")

    def __contains__(self, name: str) -> bool:
        return name in self.builtin or name in self._files

    def load_order(self, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
        """Return (name, bytes) of `names` and all they depend on, in the order of loading; built-in ones are left out.

        The dependencies are read from the modules themselves, so that a folder without `modules.dep` (a package that
        was only unpacked) does as well.

        :raise MissingError: a module is not there or cannot be decompressed.
        """
        order: dict[str, bytes] = {}

        def visit(name: str) -> None:
            if name in order or name in self.builtin:
                return
            data = self.read(name)
            order_before = [module for soft in _records(data, "softdep") for module in self._providers(soft)]
            for dependency in (*_depends(data), *order_before):
                visit(dependency)
            order[name] = data

        for name in names:
            visit(name)
        return list(order.items())

    def _providers(self, softdep: str) -> list[str]:
        """What is to be loaded first for a record `pre: NAME...`: modules, or those that have an algorithm."""
        names = softdep.removeprefix("pre:").split() if softdep.startswith("pre:") else []
        modules = [module for name in names for module in PROVIDERS.get(name, (name.replace("-", "_"),))]
        return [module for module in modules if module in self]

    def read(self, name: str) -> bytes:
        """Return a module's uncompressed bytes.

        :raise MissingError: it is not there or cannot be decompressed.
        """
        path = self._files.get(name)
        if path is None:
            raise MissingError(
                f"{self.folder} has no module {name}", "the guest needs it; name another kernel by --kernel"
            )
        for suffix in _SUFFIXES:  # modules.order may name the file without its compression
            candidate = path.with_name(path.name.split(".ko")[0] + suffix)
            if candidate.exists():
                return _decompress(candidate)
        raise MissingError(f"{path} is missing")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _walk(folder: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
        if name.endswith(_SUFFIXES)
    ]


def _decompress(path: Path) -> bytes:
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            import lzma

            return lzma.LZMADecompressor().decompress(data, _LIMIT)
        if path.suffix == ".gz":
            import zlib

            return zlib.decompressobj(31).decompress(data, _LIMIT)
        if path.suffix == ".zst":
            import subprocess

            return subprocess.run(("zstd", "-dcq"), input=data, stdout=subprocess.PIPE, timeout=60, check=True).stdout
    except Exception as error:
        hint = "install zstd" if path.suffix == ".zst" else ""
        raise MissingError(f"cannot decompress {path}: {error}", hint) from None
    return data


def _depends(module: bytes) -> list[str]:
    """The `depends=` record of a module: names, separated by commas."""
    return [name.replace("-", "_") for record in _records(module, "depends") for name in record.split(",") if name]


def _records(module: bytes, key: str) -> list[str]:
    """The values of a key of a module's .modinfo section, `key=value` records that end in NUL."""
    mark = b"\0" + key.encode() + b"="
    found = []
    start = module.find(mark)
    while start >= 0:
        start += len(mark)
        end = module.find(b"\0", start)
        found.append(module[start:end].decode("ascii", "replace"))
        start = module.find(mark, end)
    return found
