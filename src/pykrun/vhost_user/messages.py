"""The vhost-user protocol as tables: requests with what each may carry, features, payload layouts.

Source: QEMU's docs/interop/vhost-user.rst. Names are the specification's, without VHOST_USER_.
"""

from __future__ import annotations

from struct import Struct

from pykrun.record import record

HEADER = Struct("<III")
"""Request, flags, size of the payload."""

MAX_PAYLOAD = 4096
MAX_DESCRIPTORS = 8
"""Descriptors that one message may carry: as many as there may be memory regions."""

VERSION = 1
FLAG_VERSION_MASK = 3
FLAG_REPLY = 4
FLAG_NEED_REPLY = 8
FLAGS_KNOWN = FLAG_VERSION_MASK | FLAG_REPLY | FLAG_NEED_REPLY

F_PROTOCOL_FEATURES = 1 << 30
"""The virtio feature bit that stands for protocol features (VHOST_USER_F_PROTOCOL_FEATURES)."""

PROTOCOL_MQ = 1 << 0
PROTOCOL_REPLY_ACK = 1 << 3
PROTOCOL_BACKEND_REQ = 1 << 5
PROTOCOL_CONFIG = 1 << 9
PROTOCOL_STATUS = 1 << 16

UML_FEATURES = PROTOCOL_BACKEND_REQ | PROTOCOL_CONFIG
"""For User Mode Linux: it does not probe a device without these two. REPLY_ACK would add a round trip to each message
(sixty for a console with four ports), INBAND_NOTIFICATIONS (1 << 14) one to each kick."""

QEMU_FEATURES = PROTOCOL_REPLY_ACK | PROTOCOL_MQ
"""For QEMU's vhost-user-fs-pci: it takes one queue only without MQ, and owns the configuration space itself."""

ANY_FEATURES = PROTOCOL_REPLY_ACK | PROTOCOL_MQ | PROTOCOL_BACKEND_REQ | PROTOCOL_CONFIG
"""For a front end that is not known: what User Mode Linux requires, what crosvm reads its configuration space by, and
what cloud-hypervisor wants for memory that is added later. One that asks before it said SET_OWNER gets `QEMU_FEATURES`:
that is QEMU, which crashes in versions 7.1 to 8.0, and complains in later ones, when it is offered CONFIG."""

QEMU_CONFIG_FEATURES = QEMU_FEATURES | PROTOCOL_CONFIG
"""For QEMU's vhost-user-vsock-pci, which asks for its configuration space."""

FRONT_ENDS = {"uml": UML_FEATURES, "qemu": QEMU_FEATURES}
"""What to offer, by engine."""

ALL_FEATURES = UML_FEATURES | QEMU_FEATURES | PROTOCOL_STATUS
"""What this back end can speak."""


@record(frozen=True, slots=True)
class Kind:
    """What one request may look like.

    :param name: the specification's name.
    :param smallest: smallest payload in bytes.
    :param largest: largest payload in bytes.
    :param descriptors: how many descriptors it may carry.
    :param feature: protocol feature that must have been negotiated, 0 for none.
    """

    name: str
    smallest: int
    largest: int
    descriptors: int = 0
    feature: int = 0


U64 = Struct("<Q")
RING_STATE = Struct("<II")
"""struct vhost_vring_state: ring index, number."""
RING_ADDRESS = Struct("<IIQQQQ")
"""struct vhost_vring_addr: ring index, flags, descriptor table, used ring, available ring, log address."""
CONFIG = Struct("<III")
"""Offset, size, flags; followed by `size` bytes."""
TABLE_HEAD = Struct("<II")
"""Number of regions, padding."""
REGION = Struct("<QQQQ")
"""Guest address, size, user address, offset in the file."""

MAX_REGIONS = 8  # without the feature CONFIGURE_MEM_SLOTS
MAX_CONFIG = 256  # VHOST_USER_MAX_CONFIG_SIZE in QEMU; Linux has the same

RING_INDEX_MASK = 0xFF
RING_NO_DESCRIPTOR = 0x100

GET_FEATURES = 1
SET_FEATURES = 2
SET_OWNER = 3
RESET_OWNER = 4
SET_MEM_TABLE = 5
SET_VRING_NUM = 8
SET_VRING_ADDR = 9
SET_VRING_BASE = 10
GET_VRING_BASE = 11
SET_VRING_KICK = 12
SET_VRING_CALL = 13
SET_VRING_ERR = 14
GET_PROTOCOL_FEATURES = 15
SET_PROTOCOL_FEATURES = 16
GET_QUEUE_NUM = 17
SET_VRING_ENABLE = 18
SET_BACKEND_REQ_FD = 21
GET_CONFIG = 24
SET_CONFIG = 25
SET_STATUS = 39
GET_STATUS = 40

_LARGEST_TABLE = TABLE_HEAD.size + MAX_REGIONS * REGION.size

KINDS: dict[int, Kind] = {
    GET_FEATURES: Kind("GET_FEATURES", 0, 0),
    SET_FEATURES: Kind("SET_FEATURES", 8, 8),
    SET_OWNER: Kind("SET_OWNER", 0, 0),
    RESET_OWNER: Kind("RESET_OWNER", 0, 0),
    # User Mode Linux sends room for two regions whatever their number.
    SET_MEM_TABLE: Kind("SET_MEM_TABLE", TABLE_HEAD.size, _LARGEST_TABLE, MAX_REGIONS),
    SET_VRING_NUM: Kind("SET_VRING_NUM", 8, 8),
    SET_VRING_ADDR: Kind("SET_VRING_ADDR", RING_ADDRESS.size, RING_ADDRESS.size),
    SET_VRING_BASE: Kind("SET_VRING_BASE", 8, 8),
    GET_VRING_BASE: Kind("GET_VRING_BASE", 8, 8),
    SET_VRING_KICK: Kind("SET_VRING_KICK", 8, 8, 1),
    SET_VRING_CALL: Kind("SET_VRING_CALL", 8, 8, 1),
    SET_VRING_ERR: Kind("SET_VRING_ERR", 8, 8, 1),
    GET_PROTOCOL_FEATURES: Kind("GET_PROTOCOL_FEATURES", 0, 0),
    SET_PROTOCOL_FEATURES: Kind("SET_PROTOCOL_FEATURES", 8, 8),
    GET_QUEUE_NUM: Kind("GET_QUEUE_NUM", 0, 0, feature=PROTOCOL_MQ),
    SET_VRING_ENABLE: Kind("SET_VRING_ENABLE", 8, 8),
    SET_BACKEND_REQ_FD: Kind("SET_BACKEND_REQ_FD", 0, 8, 1, PROTOCOL_BACKEND_REQ),
    GET_CONFIG: Kind("GET_CONFIG", CONFIG.size, CONFIG.size + MAX_CONFIG, feature=PROTOCOL_CONFIG),
    SET_CONFIG: Kind("SET_CONFIG", CONFIG.size, CONFIG.size + MAX_CONFIG, feature=PROTOCOL_CONFIG),
    SET_STATUS: Kind("SET_STATUS", 8, 8, feature=PROTOCOL_STATUS),
    GET_STATUS: Kind("GET_STATUS", 0, 0, feature=PROTOCOL_STATUS),
}
"""Every request this back end knows. Others (memory slots, logging, postcopy, in-flight buffers, in-band kicks) belong
to features that it never offers."""
