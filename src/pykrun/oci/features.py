"""The verb `features`: what this runtime can do, in the shape of the specification's features document."""

from __future__ import annotations

import os

from pykrun.oci.bundle import STAGES
from pykrun.oci.options import Given, Table
from pykrun.oci.process import CAPABILITIES
from pykrun.plain_json import dumps
from pykrun.version import VERSION

OPTIONS: dict[str, tuple[str, Table]] = {"features": ("", {})}
MOUNT_OPTIONS = (
    *("async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "lazytime", "noatime", "nodev"),
    *("nodiratime", "noexec", "nolazytime", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private"),
    *("rbind", "relatime", "ro", "rprivate", "rshared", "rslave", "runbindable", "rw", "shared", "slave"),
    *("strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable"),
)


def features(_root: str, _settings: Given, _options: Given) -> int:
    """Print them."""
    document = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.0.2",
        "hooks": [stage for stage in STAGES if stage != "startContainer"],
        "mountOptions": list(MOUNT_OPTIONS),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": sorted(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {"enabled": False},
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
        },
        "annotations": {"org.pykrun.version": VERSION, "run.oci.crun.checkpoint.enabled": "false"},
        "potentiallyUnsafeConfigAnnotations": ["pykrun.", "krun."],
    }
    os.write(1, (dumps(document, 2) + "\n").encode())
    return 0
