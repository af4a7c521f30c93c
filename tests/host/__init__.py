"""Tests of pykrun.host."""
