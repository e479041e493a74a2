"""The local address of Gloo's connections for gradients.

Horovod 0.28.1 opens two sets of Gloo connections. Those of its control messages are bound to ``HOROVOD_GLOO_IFACE``. Those of
the default process set, which carry the gradients, are opened with an empty interface name (``InitializeForProcessSet`` in
``horovod/common/gloo/gloo_context.cc``), so Gloo binds them to the address of this host's own name. On Debian and Ubuntu that
is often 127.0.1.1, which no other host can reach, and on a host with several networks it may be the wrong one.

So while Horovod starts, ``gethostname`` returns the address of the requested interface to its library. Only that library is
affected: its pointer to ``gethostname`` is replaced, and restored afterwards. A UTS namespace with another host name would
have the same effect, but many systems do not allow it to ordinary users, and processes in separate user namespaces cannot map
each other's memory (:mod:`vggdist.collectives.shared_arrays`).
"""

from __future__ import annotations

import ctypes
import mmap
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggdist.config.errors import RequestError, before_start
from vggdist.environment.network_interfaces import address_of, addresses, interface_of, interface_towards
from vggdist.launcher.topology import launcher

_LIBRARY = "/horovod/mxnet/mpi_lib"
_GETHOSTNAME = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_PROT_READ, _PROT_WRITE = 1, 2
_kept: list[object] = []  # Horovod's threads may call them until the process ends


@contextmanager
def on_requested_interface(environment: Mapping[str, str]) -> Iterator[None]:
    """Context in which Horovod, when it starts, binds the connections for gradients to the requested interface.

    Raises:
        BeforeStart: on this rank alone, if its host has no such interface, or if ``gethostname`` cannot be replaced and
            Horovod would take an address of another interface.
    """
    slots = _pointers_to_gethostname()
    with before_start():
        address = data_address(environment)
        if address is not None and not slots:
            require_same_interface(address, hostname_address())
    with _gethostname_returns(address, slots) if address is not None else nullcontext():
        yield


def data_address(environment: Mapping[str, str]) -> str | None:
    """The local address for gradients; None without Gloo, or without a route to the rendezvous server.

    It is the address of ``HOROVOD_GLOO_IFACE``, else of the interface towards the rendezvous server. If horovodrun has found
    several interfaces that connect all hosts (``NCCL_SOCKET_IFNAME``), it takes one of them, not the same in each start: then
    the one with the address of the host's name is preferred. A single process takes the loopback.

    Raises:
        RequestError: this host has no such interface, or the interface has no address.
    """
    if launcher(environment) is None:
        return "127.0.0.1"
    if "HOROVOD_RANK" not in environment or not (rendezvous := environment.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")):
        return None
    interface = environment.get("HOROVOD_GLOO_IFACE") or interface_towards(rendezvous)
    if interface is None:
        return None
    address = address_of(interface)
    if address is None:
        available = ", ".join(f"{name} {address}" for name, address in addresses().items())
        raise RequestError(
            f"HOROVOD_GLOO_IFACE is {interface}, but {socket.gethostname()} has no interface of that name with an address "
            f"(it has {available}); specify one that every host has (INTERFACE with launch/hosts.sh)"
        )
    default, equivalent = hostname_address(), environment.get("NCCL_SOCKET_IFNAME", "").split(",")
    return default if default is not None and {interface, interface_of(default)} <= {*equivalent} else address


def require_same_interface(requested: str, default: str | None) -> None:
    """Require that Horovod's default address is on the requested interface.

    Args:
        requested: address; a loopback address means that all ranks are on one host, so that any address works.
        default: the address of the host's name.

    Raises:
        RequestError: with the host, both addresses, and the line to put into ``/etc/hosts``.
    """
    interface = interface_of(requested)
    if interface == interface_of("127.0.0.1") or default is not None and interface_of(default) == interface:
        return
    name = socket.gethostname()
    raise RequestError(
        f"gradients of {name} must be sent from {interface} ({requested}), but this Horovod sends them from the address of "
        f"the host's name, which is {default or 'unknown'}; put the line '{requested} {name}' into /etc/hosts of {name}, in "
        "place of any other line with that name"
    )


def hostname_address() -> str | None:
    """The default address of Gloo: the first one of this host's name that can be bound; None without one."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    for family, kind, protocol, _, address in found:
        with suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return str(address[0])
    return None


@contextmanager
def _gethostname_returns(name: str, slots: Sequence[_Slot]) -> Iterator[None]:
    """Make ``gethostname`` return this text when it is called through these pointers."""
    content = name.encode() + b"\0"

    def gethostname(buffer: int, size: int) -> int:
        if size < len(content):
            return -1
        ctypes.memmove(buffer, content, len(content))
        return 0

    _kept.append(function := _GETHOSTNAME(gethostname))
    previous = [slot.replace(ctypes.cast(function, ctypes.c_void_p).value) for slot in slots]
    try:
        yield
    finally:
        for slot, pointer in zip(slots, previous):
            slot.replace(pointer)


@dataclass(frozen=True)
class _Slot:
    """The address of a pointer in this process's memory, and whether its page may be written to."""

    address: int
    writable: bool

    def replace(self, value: int | None) -> int | None:
        """Set the pointer; returns the previous value."""
        if not self.writable:
            self._protect(_PROT_READ | _PROT_WRITE)
        pointer = ctypes.c_void_p.from_address(self.address)
        previous, pointer.value = pointer.value, value
        if not self.writable:
            self._protect(_PROT_READ)
        return previous

    def _protect(self, rights: int) -> None:
        page = self.address - self.address % mmap.PAGESIZE
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), rights):
            raise OSError(ctypes.get_errno(), "mprotect")


def _pointers_to_gethostname() -> list[_Slot]:
    """The pointers to ``gethostname`` in Horovod's library; empty if it is linked in another way.

    Horovod links with ``-z now``, so the pointers are set as soon as the library is loaded.
    """
    target = ctypes.cast(ctypes.CDLL(None).gethostname, ctypes.c_void_p).value
    found: list[_Slot] = []
    for line in _maps():
        span, rights, *_ = line.split()
        if rights.startswith("r") and "x" not in rights:
            start, end = (int(part, 16) for part in span.split("-"))
            words = np.frombuffer(ctypes.string_at(start, end - start), np.uintp)
            matches = start + words.itemsize * np.flatnonzero(words == target)
            found += [_Slot(int(address), "w" in rights) for address in matches]
    return found


def _maps() -> list[str]:
    try:
        return [line for line in Path("/proc/self/maps").read_text().splitlines() if _LIBRARY in line]
    except OSError:
        return []
