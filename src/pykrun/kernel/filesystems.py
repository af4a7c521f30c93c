"""The modules behind a file system's name, and behind the soft dependencies that name an algorithm."""

from __future__ import annotations

MODULES: dict[str, tuple[str, ...]] = {
    "ext2": ("ext2", "ext4"),  # one of them has it; ext4 may have been built for all three
    "ext3": ("ext3", "ext4"),
    "iso9660": ("isofs",),
    "vfat": ("vfat",),
}
"""Where the module is not called as the file system is."""

COMPANIONS: dict[str, tuple[str, ...]] = {
    "exfat": ("nls_utf8",),
    "iso9660": ("nls_utf8",),
    "vfat": ("nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"),
}
"""What mounting asks for by name, and no module lists: the character sets that kernels have as defaults."""

PROVIDERS: dict[str, tuple[str, ...]] = {
    "blake2b-256": ("blake2b_generic",),
    "crc32": ("crc32_generic",),
    "crc32c": ("crc32c_generic", "crc32c_intel"),
    "crypto-crc32c": ("crc32c_generic", "crc32c_intel"),
    "sha256": ("sha256_generic",),
    "xxhash64": ("xxhash_generic",),
}
"""Algorithms that file systems ask the kernel for by name (their `softdep`), which nobody in the guest would load."""


def modules_of(name: str) -> tuple[str, ...]:
    """Return the modules of which one has the file system."""
    return MODULES.get(name, (name,))
