"""The file system itself: its operations lie in one module each idea, and all of them stand on `core`."""

from __future__ import annotations

from pykrun.fs.passthrough.attributes import AttributeOperations
from pykrun.fs.passthrough.directories import DirectoryOperations
from pykrun.fs.passthrough.locks import LockOperations
from pykrun.fs.passthrough.names import NameOperations
from pykrun.fs.passthrough.whole import WholeOperations
from pykrun.fs.passthrough.xattrs import XattrOperations


class PassthroughFs(
    NameOperations,
    DirectoryOperations,
    AttributeOperations,
    XattrOperations,
    LockOperations,
    WholeOperations,
):
    """A directory of the host, for one guest and one thread.

    As root, files keep and get the owners that the guest says. As anybody else, everything that is made belongs to that
    user, and what the user may not do is answered with the host's errno: EPERM for other owners and device nodes,
    EACCES for what lies behind others' permissions.

    Its parameters are those of `core.Core`.
    """
