"""vhost-user: how a device reaches the virtual machine of another process (QEMU's docs/interop/vhost-user.rst).

Others use: `Backend` (one device on one connection), `OneConnection` (a socket for exactly one front end), and the
protocol features to offer by front end, `FRONT_ENDS` (`UML_FEATURES`, `QEMU_FEATURES`).
"""

from pykrun.vhost_user.backend import Backend
from pykrun.vhost_user.listener import OneConnection
from pykrun.vhost_user.messages import FRONT_ENDS, QEMU_FEATURES, UML_FEATURES

__all__ = ["FRONT_ENDS", "QEMU_FEATURES", "UML_FEATURES", "Backend", "OneConnection"]
