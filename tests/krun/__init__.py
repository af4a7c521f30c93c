"""Tests of pykrun.krun."""
