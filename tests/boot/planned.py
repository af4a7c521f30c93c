"""Plans that `pykrun run` has no options for: fields of the plan as Python text, put in by the command itself."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

from tests.boot.vm import LIMIT, Result, Vm, Word, finish

_PRELUDE = """
import pykrun.supervisor as supervisor
from pykrun.record import replace
run_plan = supervisor.run_plan
def changed(plan, *remotes):
    names = {{}}
    exec("from pykrun.machine import *; from pykrun.net.link import Link", names)
    return run_plan(replace(plan, **eval({fields!r}, names)), *remotes)
supervisor.run_plan = changed
"""


def start(vm: Vm, fields: str, *words: Word, pass_fds: Sequence[int] = (), **streams: Any) -> subprocess.Popen[bytes]:
    """Start `pykrun run WORDS` with `fields`, keyword arguments in Python, in its plan."""
    vm.pykrun.prelude = _PRELUDE.format(fields=f"dict({fields})")
    return vm.start(*words, pass_fds=tuple(pass_fds), **streams)


def run(
    vm: Vm, fields: str, *words: Word, pass_fds: Sequence[int] = (), limit: float = LIMIT, **streams: Any
) -> Result:
    """The same, to its end."""
    return finish(start(vm, fields, *words, pass_fds=pass_fds, **streams), None, limit)
