"""The addresses of a guest's network: the same for every guest, since none of them is seen beyond passt."""

from __future__ import annotations

GUEST4, PREFIX4, GATEWAY4 = "10.0.2.15", 24, "10.0.2.2"
"""What QEMU's own user network has used for twenty years, and slirp4netns after it."""

GUEST6, GATEWAY6 = "fd6b:7275:6e00::15", "fe80::2"
"""A prefix for local use (RFC 4193); a router advertises from its link-local address (RFC 4861)."""

GATEWAY_MAC = "52:55:0a:00:02:02"
