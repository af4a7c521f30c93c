"""A DHCP client (RFC 2131, 2132) with rapid commit (RFC 4039), for one Ethernet interface.

    link      the interface: bring it up, its index and hardware address
    packet    messages: bytes to fields and back
    wire      the sockets of one exchange
    client    the exchanges: to get a lease, to keep it
    netlink   addresses, routes and the MTU, each change acknowledged by the kernel
    resolver  /etc/resolv.conf, on a read-only root too
    apply     a lease to the machine, and off it again
    keeper    the process that goes on when the boot does: late answers, renewals, the end of a lease

Nothing here knows of the boot but `keeper`'s caller, `krun_init.network`.
"""
