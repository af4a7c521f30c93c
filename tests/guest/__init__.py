"""Tests of the guest's init: on plain Python with the compiled seam, its steps for real in namespaces."""
