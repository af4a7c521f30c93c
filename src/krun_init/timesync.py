"""The host's clock, as datagrams over vsock or records over the port `krun-timesync`. Not in this build."""
