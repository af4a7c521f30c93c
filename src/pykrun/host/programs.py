"""Finding programs; `shutil.which` without the import of shutil, which costs more than a process start."""

from __future__ import annotations

import os
from pathlib import Path


def find_program(*names: str) -> Path | None:
    """Return the first of `names` that is an executable file in PATH (relative entries are left out), or None."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(":") if folder.startswith("/")]
    for name in names:
        for folder in folders:
            path = f"{folder}/{name}"
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return Path(path)
    return None
