"""The verb `spec`: a config.json to begin with."""

from __future__ import annotations

import os

from pykrun.errors import UsageError
from pykrun.oci.bundle import CONFIG
from pykrun.oci.options import FLAG, VALUE, Given, Table
from pykrun.plain_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS: dict[str, tuple[str, Table]] = {
    "spec": (
        "[OPTION...]",
        {"bundle,b": (VALUE, "folder for it (.)"), "rootless": (FLAG, "accepted: it is the same")},
    )
}
_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def spec(_root: str, _settings: Given, options: Given) -> int:
    """Write it; one that is there stays."""
    path = os.path.join(options.value("bundle") or ".", CONFIG)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise UsageError(f"{path} is there already", "remove it first") from None
    os.write(file, (dumps(document(), 4) + "\n").encode())
    os.close(file)
    return 0


def document() -> dict[str, Any]:
    """A shell in a read-only root, without a network and without a terminal, which would need --console-socket."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pykrun",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]},
    }
