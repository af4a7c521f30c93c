"""Tests of pykrun.disk."""
