"""One VM from start to end: streams, control port, timeouts, signals, and nothing left behind."""

from pykrun.request import Outcome
from pykrun.supervisor.kept_layer import keep_layer
from pykrun.supervisor.plan import Plan, Volume
from pykrun.supervisor.planning import make_plan
from pykrun.supervisor.remote import Remote
from pykrun.supervisor.vm import VirtualMachine, run_plan

__all__ = ["Outcome", "Plan", "Remote", "VirtualMachine", "Volume", "keep_layer", "make_plan", "run_plan"]
