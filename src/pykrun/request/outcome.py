"""How a run ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pykrun.record import field, record


@record(slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    :param exit_code: as a shell would see it: the workload's, 128+n, or 124 to 127 of ours.
    :param signal: what ended the workload, 0 for an exit.
    :param reason: one line when something other than the workload failed.
    :param console: the kernel's last words, when the guest did not end as it should.
    :param warnings: what was not to be had as it was asked for.
    :param log: what the guest's init had to say: level (0 error to 3 debug) and text.
    :param disk_isolation: how isolated the servers of the disks are, where they are not the engine's.
    :param share_isolation: how isolated the servers of the shared directories are.
    :param phases: name and monotonic time in seconds of each step reached, in order.
    """

    exit_code: int
    signal: int = 0
    reason: str = ""
    console: Sequence[str] = ()
    warnings: Sequence[str] = ()
    log: Sequence[tuple[int, str]] = ()
    phases: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    isolation: str = ""
    disk_isolation: str = ""
    share_isolation: str = ""
