"""`pykrun-oci`: containers as VMs, with runc's command line (docs/oci.md). Verbs are imported late."""

from __future__ import annotations

from pykrun.oci.main import main

__all__ = ["main"]
