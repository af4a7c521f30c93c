"""Real VMs, by the command line alone: what a user is promised, on every engine."""
