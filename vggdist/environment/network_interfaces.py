"""Network interfaces of this host, and the open sockets of this process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress

import psutil


def interface_towards(address: str) -> str | None:
    """The name of the interface that has the source address of packets to ``address``; None without a route.

    For an address of this host it is the interface with that address, not the loopback through which such packets pass.
    """
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # sends nothing
            return interface_of(probe.getsockname()[0])
    except OSError:
        return None


def interface_of(address: str) -> str | None:
    """The name of the interface with an address; 127.x.x.x belongs to the loopback. None: not an address of this host."""
    for name, found in psutil.net_if_addrs().items():
        own = [one.address.partition("%")[0] for one in found]
        if address.partition("%")[0] in own or address.startswith("127.") and "127.0.0.1" in own:
            return name
    return None


def address_of(interface: str) -> str | None:
    """The address of an interface: IPv4 if it has one, else IPv6, link-local last. None: no such interface or no address."""
    return addresses().get(interface)


def addresses() -> dict[str, str]:
    """The address of each interface that has one, chosen as in :func:`address_of`."""
    chosen = {}
    for name, found in psutil.net_if_addrs().items():
        ranked = sorted(
            (one.family == socket.AF_INET6, one.address.startswith("fe80"), position, one.address)
            for position, one in enumerate(found)
            if one.family in (socket.AF_INET, socket.AF_INET6)
        )
        if ranked:
            chosen[name] = ranked[0][-1]
    return chosen


def interfaces_of(descriptors: Iterable[int]) -> list[str]:
    """The interfaces of connected sockets, sorted by name.

    Args:
        descriptors: of sockets; those without an IP connection are ignored.
    """
    found = set()
    for number in descriptors:
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            connection.getpeername()
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                found.add(interface_of(connection.getsockname()[0]))
    return sorted(name for name in found if name is not None)


def open_sockets() -> dict[str, int]:
    """This process's sockets: unique name -> file descriptor. Empty without /proc."""
    found = {}
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        with suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{number}")] = int(number)
    return {name: number for name, number in found.items() if name.startswith("socket:")}
