"""Every module that the library may come to need, in one file that is read when the library is loaded.

Its caller may change its root between any two calls, and then nothing can be imported from files; worse, what lies in
the new root under the old names is somebody else's. So from the end of the load on no import looks at files. What the
first call does not need is not even executed at the load: it waits in memory, as code.

The file is a marshalled index and, behind it, the marshalled code of each module; `BOOT` starts from there. Whoever
edits pykrun without building the library again gets what he edited, only slower: then all modules are imported, from
their files.
"""

from __future__ import annotations

import _imp
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

    Sources = tuple[tuple[str, int, int], ...]
    """Path, time of change in ns, size in bytes of each file of pykrun's that has a part in it."""
    Modules = dict[str, tuple[bool, str, int, int]]
    """Name to: is it a package, its file, where its code begins and ends behind the index."""

SELF = "pykrun.clib.pack"
FIRST = "pykrun.clib.glue"
LATER = (
    "encodings.ascii",
    "encodings.latin_1",
    "fcntl",
    "json",
    "mmap",
    "pykrun.blob",
    "pykrun.blob.switches",
    "pykrun.engine",
    "pykrun.krun.handler",
    "pykrun.net",
    "shlex",
    "traceback",
    "zlib",
)
"""What functions of the process import when they are called."""

SHA256 = "_sha2" if sys.version_info >= (3, 12) else "_sha256"
OWN = {"hashlib": f"from {SHA256} import sha256\n"}
"""Modules of which a part is enough here: the whole of hashlib would load a large library."""

LENGTH = 8
"""Bytes of the index's own length at the start of the file, least significant first."""

BOOT = """
import gc
gc.disable()
import marshal
with open({path!r}, "rb") as file:
    data = memoryview(file.read())
split = {length} + int.from_bytes(data[:{length}], "little")
index = marshal.loads(data[{length}:split])
pack = {{"__name__": {self!r}}}
begin, end = index[2][{self!r}][2:]
exec(marshal.loads(data[split + begin : split + end]), pack)
pack["enter"](index, data[split:])
"""
"""Python that makes a pack what is imported from; to be formatted."""


class PackFinder:
    """Finds and loads the modules of a pack: `importlib.abc.MetaPathFinder` and `Loader`."""

    def __init__(self, modules: Modules, code: memoryview) -> None:
        self._modules = modules
        self._code = code

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Describe a module, None for one that is not here."""
        found = self._modules.get(name)
        if found is None:
            return None
        is_package, file, _, _ = found
        spec: ModuleSpec = type(sys.__spec__)(name, self, origin=file)  # type: ignore[arg-type]  # a loader by methods
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the import system."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        assert module.__spec__ is not None
        _, _, begin, end = self._modules[module.__spec__.name]
        code: CodeType = marshal.loads(self._code[begin:end])
        exec(code, module.__dict__)


def enter(index: tuple[bytes, Sources, Modules, tuple[str, ...]], code: memoryview) -> None:
    """Import from a pack from now on. Called once, by the library's start, from `BOOT`.

    :raise ImportError: an extension module is not there.
    """
    magic, sources, modules, extensions = index
    if magic == _magic() and _unchanged(sources):
        sys.meta_path.insert(0, PackFinder(modules, code))
    else:
        for name in (FIRST, *LATER, "hashlib"):
            __import__(name)
    for name in extensions:
        __import__(name)


def leave_files() -> None:
    """Let no further import look at files. Extension modules and everything by path is loaded by now."""
    import gc

    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"]
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    gc.freeze()
    gc.enable()


def is_current(pack: bytes) -> bool:
    """Tell whether a pack holds pykrun as its sources are.

    :raise ValueError: it is no pack.
    """
    magic, sources, _, _ = marshal.loads(pack[LENGTH:])
    return magic == _magic() and _unchanged(sources)


def _unchanged(sources: Sources) -> bool:
    try:
        for path, changed, size in sources:
            about = os.stat(path)
            if about.st_mtime_ns != changed or about.st_size != size:
                return False
    except OSError:
        return False
    return True


def _magic() -> bytes:
    from _frozen_importlib_external import MAGIC_NUMBER  # importlib.util would be big

    return bytes(MAGIC_NUMBER)


def write(path: str) -> None:
    """Make the pack of the interpreter that runs this, in a process that does nothing else."""
    for name in (FIRST, SELF, SHA256, *LATER):
        __import__(name)
    modules: Modules = {}
    parts: list[bytes] = []
    sources, extensions = [], []
    size = 0
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name == "__main__" or spec is None or spec.name != name or not spec.has_location or _imp.is_frozen(name):
            continue
        if not hasattr(spec.loader, "get_source") or not str(spec.origin).endswith(".py"):
            extensions.append(name)
            continue
        parts.append(marshal.dumps(spec.loader.get_code(name)))
        modules[name] = (spec.submodule_search_locations is not None, spec.origin, size, size + len(parts[-1]))
        size += len(parts[-1])
        if name.split(".")[0] == "pykrun":
            about = os.stat(spec.origin)
            sources.append((spec.origin, about.st_mtime_ns, about.st_size))
    for name, text in OWN.items():
        parts.append(marshal.dumps(compile(text, name, "exec")))
        modules[name] = (False, name, size, size + len(parts[-1]))
        size += len(parts[-1])
    index = marshal.dumps((_magic(), tuple(sources), modules, tuple(extensions)))
    with open(path, "wb") as file:
        file.write(len(index).to_bytes(LENGTH, "little"))
        file.writelines((index, *parts))
