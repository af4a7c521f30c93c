"""The init blob: `krun_init` as one static file, found, built, cached.

`find` is for every run and imports little; `build` imports what it needs when it is called. The modules below explain
themselves: lookup, targets, recipe, source, toolchain, zig, archive, layout, image, builder, and the C files launcher,
heap, snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pykrun.blob.lookup import ARCHITECTURES, OVERRIDE, Blob, find
from pykrun.host.numbers import MACHINE

__all__ = ["ARCHITECTURES", "OVERRIDE", "Blob", "build", "find"]


def build(
    arch: str = MACHINE,
    progress: Callable[[str], None] | None = None,
    *,
    again: bool = False,
    with_parts: Iterable[str] = (),
    without_parts: Iterable[str] = (),
) -> Blob:
    """See `pykrun.blob.builder.build`."""
    from pykrun.blob.builder import build as do_build

    return do_build(arch, progress, again=again, with_parts=with_parts, without_parts=without_parts)
