"""What the linker is told of where things lie: what a start needs side by side, so that it takes few pages.

Code and constants at the front of the first segment, variables at the end of the other, right before the heap. GNU ld
gets additions to its own script; the other linker, and machines whose kernels may have larger pages than 4 KiB, get a
whole one: two segments and the heap, with no hole between the last page of one and the first of the next (resume.c asks
for all of it at once, and the builder's pages may be smaller).
"""

from __future__ import annotations

from pathlib import Path

from pykrun.blob import recipe

BASE = 0x400000
"""Where a program begins that is linked to fixed addresses."""

ADDITIONS = """\
SECTIONS {{
.hot.text : {{
{code}
}}
}}
INSERT BEFORE .text;
SECTIONS {{
.hot.data : {{
{variables}
}}
}}
INSERT AFTER .bss;
"""

WHOLE = """\
PHDRS {{
text PT_LOAD FILEHDR PHDRS FLAGS(5);
data PT_LOAD FLAGS(6);
stack PT_GNU_STACK FLAGS(6);
}}
SECTIONS {{
. = {base} + SIZEOF_HEADERS;
.hot.text : {{
{code}
}} :text
.init : {{ KEEP(*(.init)) }} :text
.fini : {{ KEEP(*(.fini)) }} :text
.rodata : {{ *(.rodata .rodata.*) }} :text
.text : {{ *(.text .text.*) . = ALIGN({page}); }} :text
.got : {{ *(.got .got.plt) }} :data
.fini_array : {{ __fini_array_start = .; KEEP(*(.fini_array .fini_array.*)) __fini_array_end = .; }} :data
.data : {{ *(.data .data.*) }} :data
.bss : {{ *(.bss .bss.* COMMON) }} :data
.hot.data : {{
{variables}
. = ALIGN({page});
}} :data
end = .;
/DISCARD/ : {{ *(.eh_frame .eh_frame_hdr .comment .note .note.*) }}
}}
"""

STATE = """\
__init_array_start = .;
KEEP(*(.init_array .init_array.*))
__init_array_end = .;
*(.PyRuntime)"""
"""The constructors' addresses, read at each start, and all of CPython's state."""

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


def write_script(folder: Path, page: int | None = None) -> str:
    """Write the linker's script into the folder, where it is to run; return the option that names it.

    :param page: for a whole script: the size of the largest pages.
    """
    names = (Path(__file__).parent / "hot.txt").read_text(encoding="ascii").split()
    code = [f"*({pattern.format(name)})" for name in names for pattern in CODE]
    code += [f"*({pattern})" for pattern in recipe.HOT_CONSTANTS]
    code += [f"*{file}(.text .rodata*)" for file in recipe.HOT_FILES]
    variables = [STATE, *(f"*(.data.{name} .bss.{name})" for name in recipe.HOT_VARIABLES)]
    script = ADDITIONS if page is None else WHOLE
    (folder / "order").write_text(
        script.format(code="\n".join(code), variables="\n".join(variables), base=BASE, page=page)
    )
    return "-Wl,-T,order"
