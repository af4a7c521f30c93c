"""Tests of pykrun.sandbox."""
