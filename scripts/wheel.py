"""Make the wheel, dist/pykrun-VERSION-py3-none-any.whl: pykrun with the init blobs that were built.

    python wheel.py CHECKOUT

It is put together in a temporary folder, so that the checkout stays as it is; the same sources give the same bytes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DATE = "315532800"
"""1980, where a zip file's calendar begins."""


def main() -> None:
    """Build the wheel and print its path."""
    here = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(here / "src"))
    from pykrun.blob.lookup import ARCHITECTURES, cached

    with tempfile.TemporaryDirectory(prefix="pykrun-wheel-") as name:
        tree = Path(name) / "pykrun"
        tree.mkdir()
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(here / file, tree)
        shutil.copytree(here / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        carried = []
        for arch in ARCHITECTURES:
            found = cached(arch)
            if found is not None:
                shutil.copytree(found.path.parent, tree / "src/pykrun/blob/data" / arch)
                carried.append(arch)
        if not carried:
            sys.exit("wheel: there is no init blob to carry; run ./setup first")
        made = Path(name) / "dist"
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--disable-pip-version-check",
            "--no-deps",
            "-q",
            "-w",
            made,
            tree,
        ]
        if importlib.util.find_spec("setuptools"):  # then pip need not fetch it
            command.insert(-1, "--no-build-isolation")
        subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": DATE}, stdout=sys.stderr)
        (wheel,) = made.glob("*.whl")
        target = here / "dist" / wheel.name
        target.parent.mkdir(exist_ok=True)
        part = target.with_suffix(".part")
        shutil.copy(wheel, part)
        part.replace(target)
    print(f"{target} (init blobs: {', '.join(carried)})")


main()
