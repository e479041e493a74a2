"""The address from which this rank's gradients leave on Gloo.

Horovod 0.28.1 opens two sets of Gloo connections. Those of its control messages are bound to ``HOROVOD_GLOO_IFACE``. Those of
the default process set, which carry the gradients, are opened with an empty interface name (``InitializeForProcessSet`` in
``horovod/common/gloo/gloo_context.cc``), so Gloo binds them to the address of this host's own name. On Debian and Ubuntu that
is often 127.0.1.1, which no other host can reach, and on a host with several networks it may be the wrong one.

So while Horovod starts, its library gets the address of the requested interface in place of the host's name. Only that library
is affected: its pointer to ``gethostname`` is replaced, and set back afterwards. A namespace with another host name would have
the same effect, but many systems do not allow it to ordinary users, and processes in user namespaces of their own may not map
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
    """Horovod, started meanwhile, sends gradients from the interface that was asked for.

    Raises:
        BeforeStart: on this rank alone, where its host has no such interface, or where Horovod's library cannot be given the
            address and would take one that other hosts do not reach.
    """
    slots = _pointers_to_gethostname()
    with before_start():
        address = data_address(environment)
        if address is not None and not slots:
            require_own_name(address, own_address())
    with _gethostname_returns(address, slots) if address is not None else nullcontext():
        yield


def data_address(environment: Mapping[str, str]) -> str | None:
    """The address from which gradients are to leave; None where Gloo does not carry them, or there is no route.

    It is that of ``HOROVOD_GLOO_IFACE``, else of the interface towards the rendezvous. Where horovodrun has found several
    interfaces that connect all hosts (``NCCL_SOCKET_IFNAME``), it takes any of them, not the same in each start: then the one
    that this host's name has is preferred. One process alone needs no name, and takes the loopback.

    Raises:
        RequestError: where this host has no such interface, or it has no address.
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
        here = ", ".join(f"{name} {address}" for name, address in addresses().items())
        raise RequestError(
            f"HOROVOD_GLOO_IFACE is {interface}, but {socket.gethostname()} has no interface of that name with an address "
            f"(it has {here}); name one that every host has (INTERFACE with launch/hosts.sh)"
        )
    own, equivalent = own_address(), environment.get("NCCL_SOCKET_IFNAME", "").split(",")
    return own if own is not None and {interface, interface_of(own)} <= {*equivalent} else address


def require_own_name(wanted: str, own: str | None) -> None:
    """Refuse the address that Horovod takes by itself where it is not of the interface that was asked for.

    Args:
        wanted: a loopback address connects ranks of one host, as any other address of it does.
        own: the address of this host's name.

    Raises:
        RequestError: naming the host, both addresses, and the line in ``/etc/hosts`` that mends it.
    """
    if interface_of(wanted) == interface_of("127.0.0.1") or own is not None and interface_of(own) == interface_of(wanted):
        return
    name = socket.gethostname()
    raise RequestError(
        f"gradients of {name} should leave from {interface_of(wanted)} ({wanted}), but this Horovod sends them from the "
        f"address of the host's name, which is {own or 'unknown'}; put the line '{wanted} {name}' into /etc/hosts of "
        f"{name}, in place of any other line with that name"
    )


def own_address() -> str | None:
    """The address that Gloo takes by itself: the first of this host's name that can be bound. None: there is none."""
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
    """Let ``gethostname`` return this text to whoever calls it through these pointers."""
    content = name.encode() + b"\0"

    def gethostname(buffer: int, size: int) -> int:
        if size < len(content):
            return -1
        ctypes.memmove(buffer, content, len(content))
        return 0

    _kept.append(function := _GETHOSTNAME(gethostname))
    former = [slot.replace(ctypes.cast(function, ctypes.c_void_p).value) for slot in slots]
    try:
        yield
    finally:
        for slot, pointer in zip(slots, former):
            slot.replace(pointer)


@dataclass(frozen=True)
class _Slot:
    """The address of a pointer in this process's memory, and whether its page may be written to."""

    address: int
    writable: bool

    def replace(self, value: int | None) -> int | None:
        """Set the pointer; returns the former value."""
        if not self.writable:
            self._protect(_PROT_READ | _PROT_WRITE)
        pointer = ctypes.c_void_p.from_address(self.address)
        former, pointer.value = pointer.value, value
        if not self.writable:
            self._protect(_PROT_READ)
        return former

    def _protect(self, rights: int) -> None:
        page = self.address - self.address % mmap.PAGESIZE
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), rights):
            raise OSError(ctypes.get_errno(), "mprotect")


def _pointers_to_gethostname() -> list[_Slot]:
    """Where Horovod's library holds the address of ``gethostname``; empty where it is linked otherwise.

    Horovod links with ``-z now``, so the address is in the library's table as soon as it is loaded.
    """
    wanted = ctypes.cast(ctypes.CDLL(None).gethostname, ctypes.c_void_p).value
    found: list[_Slot] = []
    for line in _maps():
        place, rights, *_ = line.split()
        if rights.startswith("r") and "x" not in rights:
            start, end = (int(part, 16) for part in place.split("-"))
            words = np.frombuffer(ctypes.string_at(start, end - start), np.uintp)
            places = start + words.itemsize * np.flatnonzero(words == wanted)
            found += [_Slot(int(address), "w" in rights) for address in places]
    return found


def _maps() -> list[str]:
    try:
        return [line for line in Path("/proc/self/maps").read_text().splitlines() if _LIBRARY in line]
    except OSError:
        return []
