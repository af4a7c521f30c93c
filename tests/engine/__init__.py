"""Tests of pykrun.engine."""
