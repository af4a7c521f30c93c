"""A directory of the host as a file system: every operation, and no way out of the directory."""

from pykrun.fs.passthrough.exports import ExportTable
from pykrun.fs.passthrough.filesystem import PassthroughFs
from pykrun.fs.passthrough.options import CACHES, Cache, Options
from pykrun.fs.passthrough.whole import EXPORT_FD
from pykrun.fs.passthrough.xattr_map import XattrMap

__all__ = ["CACHES", "EXPORT_FD", "Cache", "ExportTable", "Options", "PassthroughFs", "XattrMap"]
