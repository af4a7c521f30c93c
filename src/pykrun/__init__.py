"""pykrun: run a command in a real Linux microVM whose root file system you compose in Python.

::

    import pykrun

    result = pykrun.run(["/bin/uname", "-a"], root="/", read_only=True, text=True)
    print(result.stdout)

`run` waits for the end, `MicroVM` is a VM that runs, `Root` composes a file system; `pykrun.aio` has the first two for
asyncio.
"""

PIPE, STDOUT, DEVNULL = -1, -2, -3
"""What `subprocess` calls so; to import it takes half as long as everything else that `pykrun run` imports."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.api import MicroVM, Options, Result, Root, run
    from pykrun.errors import EngineError, MissingError, PykrunError, SandboxError, UsageError
    from pykrun.version import VERSION as __version__

_HOMES = {
    **dict.fromkeys(("MicroVM", "Options", "Result", "Root", "run"), "api"),
    **dict.fromkeys(("EngineError", "MissingError", "PykrunError", "SandboxError", "UsageError"), "errors"),
}
"""Where the names are, which are imported when they are asked for: the command line comes to its Ctrl-C sooner so."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        from pykrun.version import VERSION

        return VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'pykrun' has no attribute {name!r}")
    __import__(f"pykrun.{_HOMES[name]}")
    return getattr(globals()[_HOMES[name]], name)


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "EngineError",
    "MicroVM",
    "MissingError",
    "Options",
    "PykrunError",
    "Result",
    "Root",
    "SandboxError",
    "UsageError",
    "__version__",
    "run",
]
