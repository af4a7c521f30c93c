"""Tests of the guest's network set-up: real servers and scripted ones, in network namespaces of their own."""
