"""libkrun's C interface, version 1, as one table: what the header, cffi's declarations and the glue are made from."""

from __future__ import annotations

from pykrun.clib.abi import devices, machine, storage
from pykrun.clib.abi.kinds import Constant, Function, Kind, Param, Section

__all__ = ["FUNCTIONS", "SECTIONS", "VERSION", "Constant", "Function", "Kind", "Param", "Section"]

VERSION = "1.17.0"
"""The version of libkrun that programs find in the pkg-config file."""

_LAST = ("The start", "Questions")

SECTIONS: tuple[Section, ...] = (
    *(section for section in machine.SECTIONS if section.title not in _LAST),
    *storage.SECTIONS,
    *devices.SECTIONS,
    *(section for section in machine.SECTIONS if section.title in _LAST),
)
"""In the order in which a program comes to need them."""

FUNCTIONS: tuple[Function, ...] = tuple(function for section in SECTIONS for function in section.functions)
