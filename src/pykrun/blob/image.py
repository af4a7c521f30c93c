"""The last stage: from CPython's archive and `krun_init` to one file. Seconds, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.archive import Archive
from pykrun.blob.layout import write_script
from pykrun.blob.run import BUILD_ENVIRONMENT, run, tool_path
from pykrun.blob.toolchain import Native, Toolchain
from pykrun.errors import BlobError

OWN = Path(__file__).parent

EMBED = """\
    .section .rodata
    .globl frozen_start, frozen_end
frozen_start:
    .incbin "frozen"
frozen_end:
    .section .note.GNU-stack, "", @progbits
"""
"""An assembly file that puts the frozen modules into a program."""

OSABI, OSABI_FREEBSD = 7, 9
"""Place and value of the byte of an ELF header by which FreeBSD knows its own programs (elf(5), brandelf(1))."""

WRAPS = tuple(f"-Wl,--wrap={name}" for name in recipe.WRAPPED)
"""Linker options that make absent.c's functions stand in for the core's."""


def make_snapshot(
    guest: Path,
    archive: Archive,
    toolchain: Toolchain,
    work: Path,
    log: Path,
    *,
    link: Sequence[str] | None = None,
    start: Sequence[str] = (),
    replaced: Sequence[str] = (),
) -> Path:
    """Compile, link, start once and save. Twice: a blob that is not the same twice is not handed out.

    :param guest: the folder of the package `krun_init`.
    :param link: options for the linker, if not the toolchain's.
    :param start: the words of a start that is to be quick: it runs once, and the objects it needs lie side by side.
    :param replaced: modules that come from elsewhere, `MODULE=FILE` each.
    :param work: an empty folder to work in.
    :raise BlobError: it does not build; the message says what the compiler or freeze.py said.
    """
    compiler = str(toolchain.write(work))
    _freeze(str(archive.python), guest, work, log, *replaced)
    sources = [OWN / name for name in recipe.SNAPSHOT_SOURCES]
    flags = [
        *toolchain.flags,
        recipe.module_macro(),
        "-fno-builtin-malloc",
        *(f"-I{folder}" for folder in archive.includes),
    ]
    objects = _compile(compiler, [*sources, _seam(guest)], flags, work, log)
    words = [*(toolchain.link if link is None else link), *WRAPS, write_script(work, toolchain.page)]
    run([compiler, *words, "-o", "stem", *objects, str(archive.library), "-lm"], cwd=work, log=log)
    stem = _Stem(toolchain.emulator, work, log)
    wanted = []
    if start:  # see which objects that takes
        stem.run("--survey", "frozen", "wanted", *start)
        wanted = ["wanted", *start]
    # same length of path and arguments: they have no part in the snapshot, and this keeps it so
    for name in ("init", "twin"):
        stem.run("--snapshot", "frozen", name, *wanted)
    if (work / "init").read_bytes() != (work / "twin").read_bytes():
        raise BlobError("two snapshots of the init blob differ: something at import time depends on the run")
    return work / "init"


class _Stem:
    """The linked program, which saves itself."""

    def __init__(self, emulator: Sequence[str], work: Path, log: Path) -> None:
        self._command = [*emulator, "./stem"]
        self._work = work
        self._log = log

    def run(self, *words: str) -> None:
        environment = recipe.SNAPSHOT_ENVIRONMENT
        run([*self._command, *words], cwd=self._work, log=self._log, environment=environment, timeout=120)


def make_frozen(
    guest: Path, archive: Archive, toolchain: Toolchain, work: Path, log: Path, *, replaced: Sequence[str] = ()
) -> Path:
    """Compile and link for a system whose programs cannot run here: Python starts anew at every start.

    The parameters are those of `make_snapshot`.
    """
    system = toolchain.target.system
    compiler = str(toolchain.write(work))
    _freeze(str(archive.python), guest, work, log, *replaced, system=system)
    (work / "frozen.S").write_text(EMBED)
    sources = [*(OWN / name for name in recipe.FROZEN_SOURCES), _seam(guest, system), work / "frozen.S"]
    flags = [
        *toolchain.flags,
        "-DEMBEDDED",
        *recipe.program_macros(system),
        recipe.module_macro(system),
        *(f"-I{folder}" for folder in archive.includes),
    ]
    objects = _compile(compiler, sources, flags, work, log)
    words = [*toolchain.link, *WRAPS, "-o", "init"]
    run([compiler, *words, *objects, str(archive.library), "-lm"], cwd=work, log=log)
    with open(work / "init", "r+b") as program:
        program.seek(OSABI)
        program.write(bytes([OSABI_FREEBSD]))
    return work / "init"


def make_native(guest: Path, native: Native, work: Path, log: Path, *, replaced: Sequence[str] = ()) -> Path:
    """Compile and link with the system's archive; Python starts anew at every start."""
    stand_ins = [f"{name}={OWN / file}" for name, file in recipe.NATIVE_STAND_INS.items()]
    _freeze(native.python, guest, work, log, *stand_ins, *replaced)
    (work / "frozen.S").write_text(EMBED)
    sources = [*(OWN / name for name in recipe.NATIVE_SOURCES), _seam(guest), work / "frozen.S"]
    flags = [
        *recipe.COMPILE,
        "-DEMBEDDED",
        "-DSYSTEM_CORE",
        recipe.module_macro(native=True),
        *(f"-I{folder}" for folder in native.includes),
    ]
    objects = _compile("gcc", sources, flags, work, log)
    run(["gcc", *recipe.LINK, "-o", "init", *objects, str(native.archive), "-lm", "-ldl"], cwd=work, log=log)
    return work / "init"


def _include(folders: Iterable[Path | str]) -> list[str]:
    return [f"-I{folder}" for folder in folders]


def _anonymous(folders: dict[Path, str]) -> list[str]:
    """Keep this machine's paths out of `__FILE__`."""
    return [f"-ffile-prefix-map={folder}={name}" for folder, name in folders.items()]


def _seam(guest: Path, system: str = "linux") -> Path:
    """The C file of the guest's native seam."""
    return guest / f"{recipe.SEAMS[system]}.c"


def _freeze(python: str, guest: Path, work: Path, log: Path, *modules: str, system: str = "linux") -> None:
    command = [python, "-B", str(OWN / "freeze.py"), str(guest), recipe.ENTRIES[system], "frozen"]
    command += [recipe.importable(system), *modules]
    try:
        run(command, cwd=work, log=log, timeout=120)
    except BlobError as error:
        raise BlobError(f"krun_init cannot be frozen: {error.message.partition(': ')[2]}", error.hint) from error


def _compile(compiler: str, sources: Sequence[Path], flags: Sequence[str], work: Path, log: Path) -> list[str]:
    environment = {
        "PATH": tool_path(),
        "SOURCE_DATE_EPOCH": recipe.SOURCE_DATE_EPOCH,
        **BUILD_ENVIRONMENT,
    }
    objects = []
    for source in sources:
        target = f"{source.stem}.o"
        command = [compiler, *flags, *recipe.COMPILE_OWN, "-c", str(source), "-o", target]
        run(command, cwd=work, log=log, environment=environment)
        objects.append(target)
    return objects
