"""Every module that the library may come to need, in one file that is read when the library is loaded.

Its caller may change its root between any two calls, and then nothing can be imported from files; worse, what lies in
the new root under the old names is somebody else's. So from the end of the load on no import looks at files. What the
first call does not need is not even executed at the load: it waits in memory, as code.

The file is marshalled: a tuple (magic number of the code, sources, modules, extensions). Whoever edits pykrun without
building the library again gets what he edited, only slower: then all modules are imported, from their files.
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

FIRST = "pykrun.clib.glue"
LATER = (
    "encodings.ascii",
    "encodings.latin_1",
    "fcntl",
    "hashlib",
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

WITHOUT = ("_hashlib",)
"""Extension modules that others do without, and that would load large libraries."""


class PackFinder:
    """Finds and loads the modules of a pack: `importlib.abc.MetaPathFinder` and `Loader`.

    :param modules: name to (whether it is a package, its file, its code, marshalled).
    """

    def __init__(self, modules: dict[str, tuple[bool, str, bytes]]) -> None:
        self._modules = modules

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Describe a module, None for one that is not here."""
        found = self._modules.get(name)
        if found is None:
            return None
        is_package, file, _ = found
        spec = _new_spec(name, self, file)
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
        code: CodeType = marshal.loads(self._modules[module.__spec__.name][2])
        exec(code, module.__dict__)


def _new_spec(name: str, loader: PackFinder, origin: str) -> ModuleSpec:
    return type(sys.__spec__)(name, loader, origin=origin)  # type: ignore[arg-type]  # it is a loader by its methods


def enter(path: str) -> None:
    """Import from a pack from now on, and from nowhere else. Called once, by the library's start.

    :raise OSError: the file is not there.
    :raise ImportError: an extension module is not there.
    """
    with open(path, "rb") as file:
        magic, sources, modules, extensions = marshal.loads(file.read())
    for name in extensions:
        __import__(name)
    if magic == _magic() and _unchanged(sources):
        sys.meta_path.insert(0, PackFinder(modules))
    else:
        for name in (FIRST, *LATER):
            __import__(name)
    _do_without()


def leave_files() -> None:
    """Let no further import look at files. Extension modules and everything by path is loaded by now."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"]
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


def is_current(pack: bytes) -> bool:
    """Tell whether a pack holds pykrun as its sources are.

    :raise ValueError: it is no pack.
    """
    magic, sources, _, _ = marshal.loads(pack)
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


def _do_without() -> None:
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: importing it fails
    for name in WITHOUT:
        modules[name] = None


def _magic() -> bytes:
    from _frozen_importlib_external import MAGIC_NUMBER  # importlib.util would be big

    return bytes(MAGIC_NUMBER)


def write(path: str) -> None:
    """Make the pack of the interpreter that runs this, in a process that does nothing else."""
    _do_without()
    for name in (FIRST, *LATER):
        __import__(name)
    modules: dict[str, tuple[bool, str, bytes]] = {}
    sources, extensions = [], []
    for name, module in sorted(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name == "__main__" or spec is None or spec.name != name or not spec.has_location or _imp.is_frozen(name):
            continue
        if not hasattr(spec.loader, "get_source") or not str(spec.origin).endswith(".py"):
            extensions.append(name)
            continue
        modules[name] = (
            spec.submodule_search_locations is not None,
            spec.origin,
            marshal.dumps(spec.loader.get_code(name)),
        )
        if name.split(".")[0] == "pykrun":
            about = os.stat(spec.origin)
            sources.append((spec.origin, about.st_mtime_ns, about.st_size))
    with open(path, "wb") as file:
        marshal.dump((_magic(), tuple(sources), modules, tuple(extensions)), file)
