"""File systems: the interface that the FUSE server serves, and those that implement it.

`pykrun.fs.passthrough` and `pykrun.fs.readonly` are imported where they are used: a VM without a shared directory needs
neither them nor ctypes.
"""

from pykrun.fs.augment import EXIT_CODE_IOCTL, AugmentFs
from pykrun.fs.inodes import InodeAllocator
from pykrun.fs.interface import FileSystem
from pykrun.fs.null import NullFs
from pykrun.fs.sources import Content, FileSource, LazySource, MemorySource, Source

__all__ = [
    "EXIT_CODE_IOCTL",
    "AugmentFs",
    "Content",
    "FileSource",
    "FileSystem",
    "InodeAllocator",
    "LazySource",
    "MemorySource",
    "NullFs",
    "Source",
]
