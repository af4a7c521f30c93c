"""Tests of pykrun.kernel."""
