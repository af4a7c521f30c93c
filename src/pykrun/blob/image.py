"""The last stage: from CPython's archive and `krun_init` to one file. Seconds, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pykrun.blob import recipe
from pykrun.blob.archive import Archive, write_compiler
from pykrun.blob.run import BUILD_ENVIRONMENT, run, tool_path
from pykrun.blob.toolchain import Musl, Native
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
"""An assembly file that puts the frozen modules into the native program."""


ORDER = """\
SECTIONS {{
.hot.text : {{
{code}
}}
}}
INSERT BEFORE .text;
SECTIONS {{
.hot.data : {{
__init_array_start = .;
KEEP(*(.init_array .init_array.*))
__init_array_end = .;
*(.PyRuntime)
{variables}
}}
}}
INSERT AFTER .bss;
"""
"""Additions to the linker's own script: these sections are taken first. .PyRuntime holds all of CPython's state."""

CODE = (
    ".text.{}",
    ".text.__{}",
    ".text.hot.{}",
    ".text.startup.{}",
    ".rodata.{}",
    ".rodata.{}.str*",
    ".rodata.{}.cst*",
)
"""Sections of a function: weak names of the C library have two underscores more, compilers sort by heat."""


def make_snapshot(
    guest: Path,
    archive: Archive,
    musl: Musl,
    work: Path,
    log: Path,
    *,
    link: Sequence[str] = recipe.LINK,
    start: Sequence[str] = (),
    replaced: Sequence[str] = (),
) -> Path:
    """Compile, link, start once and save. Twice: a blob that is not the same twice is not handed out.

    :param guest: the folder of the package `krun_init`.
    :param link: options for the linker.
    :param start: the words of a start that is to be quick: it runs once, and the objects it needs lie side by side.
    :param replaced: modules that come from elsewhere, `MODULE=FILE` each.
    :param work: an empty folder to work in.
    :raise BlobError: it does not build; the message says what the compiler or freeze.py said.
    """
    compiler = str(write_compiler(work, musl))
    _freeze(str(archive.python), guest, work, log, *replaced)
    sources = [OWN / name for name in recipe.SNAPSHOT_SOURCES]
    flags = [
        *recipe.COMPILE,
        recipe.module_macro(),
        "-fno-builtin-malloc",
        *(f"-I{folder}" for folder in archive.includes),
    ]
    objects = _compile(compiler, [*sources, _seam(guest)], flags, work, log)
    wraps = [f"-Wl,--wrap={name}" for name in recipe.WRAPPED]
    run([compiler, *link, *wraps, _sort(work), "-o", "stem", *objects, str(archive.library), "-lm"], cwd=work, log=log)
    wanted = _survey(start, work, log)
    # same length of path and arguments: they have no part in the snapshot, and this keeps it so
    for name in ("init", "twin"):
        _stem("--snapshot", "frozen", name, *wanted, work=work, log=log)
    if (work / "init").read_bytes() != (work / "twin").read_bytes():
        raise BlobError("two snapshots of the init blob differ: something at import time depends on the run")
    return work / "init"


def _stem(*words: str, work: Path, log: Path) -> None:
    run(["./stem", *words], cwd=work, log=log, environment=recipe.SNAPSHOT_ENVIRONMENT, timeout=60)


def _survey(start: Sequence[str], work: Path, log: Path) -> list[str]:
    """Start with these words once, and see which objects that takes. Returns what names them to the stem."""
    if not start:
        return []
    _stem("--survey", "frozen", "wanted", *start, work=work, log=log)
    return ["wanted", *start]


def make_native(guest: Path, native: Native, work: Path, log: Path, *, replaced: Sequence[str] = ()) -> Path:
    """Compile and link with the system's archive; Python starts anew at every start."""
    stand_ins = [f"{name}={OWN / file}" for name, file in recipe.NATIVE_STAND_INS.items()]
    _freeze(native.python, guest, work, log, *stand_ins, *replaced)
    (work / "frozen.S").write_text(EMBED)
    sources = [*(OWN / name for name in recipe.NATIVE_SOURCES), _seam(guest), work / "frozen.S"]
    flags = [
        *recipe.COMPILE,
        "-DEMBEDDED",
        recipe.module_macro(native=True),
        *(f"-I{folder}" for folder in native.includes),
    ]
    objects = _compile("gcc", sources, flags, work, log)
    run(["gcc", *recipe.LINK, "-o", "init", *objects, str(native.archive), "-lm", "-ldl"], cwd=work, log=log)
    return work / "init"


def _sort(work: Path) -> str:
    """A script for the linker that has what a start needs side by side: code and constants at the front of the first
    segment, variables at the end of the other, right before the heap. Returns the option that names it."""
    names = (OWN / "hot.txt").read_text(encoding="ascii").split()
    code = [f"*({pattern.format(name)})" for name in names for pattern in CODE]
    code += [f"*({pattern})" for pattern in recipe.HOT_CONSTANTS]
    code += [f"*{file}(.text .rodata*)" for file in recipe.HOT_FILES]
    variables = [f"*(.data.{name} .bss.{name})" for name in recipe.HOT_VARIABLES]
    (work / "order").write_text(ORDER.format(code="\n".join(code), variables="\n".join(variables)))
    return "-Wl,-T,order"


def _include(folders: Iterable[Path | str]) -> list[str]:
    return [f"-I{folder}" for folder in folders]


def _anonymous(folders: dict[Path, str]) -> list[str]:
    """Keep this machine's paths out of `__FILE__`."""
    return [f"-ffile-prefix-map={folder}={name}" for folder, name in folders.items()]


def _seam(guest: Path, system: str = "linux") -> Path:
    """The C file of the guest's native seam."""
    return guest / f"{recipe.SEAMS[system]}.c"


def _freeze(python: str, guest: Path, work: Path, log: Path, *modules: str) -> None:
    command = [python, "-B", str(OWN / "freeze.py"), str(guest), recipe.ENTRIES["linux"], "frozen"]
    command += [recipe.importable(), *modules]
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
