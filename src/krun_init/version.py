"""The version that `--version` prints; equal to pykrun's (a test compares them)."""

VERSION = "0.1.0"
