"""vhost-user: how a device reaches the virtual machine of another process (QEMU's docs/interop/vhost-user.rst).

Others use: `Backend` (one device on one connection), `OneConnection` (a socket for exactly one front end),
`AllConnections` (one for front ends that come and go), and the protocol features to offer by front end, `FRONT_ENDS`
(`UML_FEATURES`, `QEMU_FEATURES`, for its vsock device `QEMU_CONFIG_FEATURES`), or to one that is not known
(`ANY_FEATURES`).
"""

from pykrun.vhost_user.backend import Backend
from pykrun.vhost_user.listener import AllConnections, OneConnection, hung_up, peer
from pykrun.vhost_user.messages import (
    ANY_FEATURES,
    FRONT_ENDS,
    QEMU_CONFIG_FEATURES,
    QEMU_FEATURES,
    UML_FEATURES,
)

__all__ = [
    "ANY_FEATURES",
    "FRONT_ENDS",
    "QEMU_CONFIG_FEATURES",
    "QEMU_FEATURES",
    "UML_FEATURES",
    "AllConnections",
    "Backend",
    "OneConnection",
    "hung_up",
    "peer",
]
