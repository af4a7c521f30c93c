"""One VM from start to end: streams, control port, timeouts, signals, and nothing left behind."""

from pykrun.supervisor.plan import Outcome, Plan
from pykrun.supervisor.vm import run_plan

__all__ = ["Outcome", "Plan", "run_plan"]
