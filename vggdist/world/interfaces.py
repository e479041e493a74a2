"""Network interfaces of this host."""

from __future__ import annotations

import socket

import psutil


def interface_towards(address: str) -> str | None:
    """The name of the interface whose address packets to ``address`` carry; None where there is no route.

    Towards an address of this host it is the interface that has it, not the loopback that such packets take.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # sends nothing
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.partition("%")[0] == own for found in addresses):
            return name
    return None
