"""Gradients are sent from the requested interface, or the run ends with an error."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Mapping
from types import SimpleNamespace

import horovod.mxnet  # noqa: F401  (the library whose pointers are replaced)
import psutil
import pytest

from vggdist.collectives import gloo_address
from vggdist.config.errors import RequestError
from vggdist.environment.network_interfaces import address_of, interface_of

RANK = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1"}


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with two networks, whose name has an address that other hosts cannot reach."""

    ipv4, ipv6 = socket.AF_INET, socket.AF_INET6
    found = {
        "lo": [(ipv4, "127.0.0.1"), (ipv6, "::1")],
        "eth0": [(ipv6, "fe80::1%eth0"), (ipv4, "10.0.0.2"), (ipv4, "10.0.0.3")],
        "ib0": [(ipv6, "fe80::2%ib0"), (ipv6, "2001:db8::2")],
        "down0": [(socket.AF_PACKET, "52:54:00:12:34:56")],
    }
    interfaces = {
        name: [SimpleNamespace(family=family, address=address) for family, address in every] for name, every in found.items()
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)
    monkeypatch.setattr(gloo_address, "hostname_address", lambda: "127.0.1.1")
    monkeypatch.setattr(gloo_address, "interface_towards", lambda address: {"10.0.0.1": "eth0"}.get(address))
    monkeypatch.setattr(socket, "gethostname", lambda: "node1")


def test_an_interface_has_its_ipv4_address_and_every_127_is_the_loopback_s() -> None:
    assert [address_of(name) for name in ("lo", "eth0", "ib0", "down0", "eth9")] == [
        "127.0.0.1",
        "10.0.0.2",
        "2001:db8::2",
        None,
        None,
    ]
    found = [interface_of(address) for address in ("127.0.1.1", "10.0.0.3", "fe80::1%eth0", "192.0.2.1")]
    assert found == ["lo", "eth0", "eth0", None]


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        pytest.param({}, "127.0.0.1", id="no launcher"),
        pytest.param({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, None, id="mpirun"),
        pytest.param({**RANK, "HOROVOD_GLOO_IFACE": "ib0"}, "2001:db8::2", id="asked for"),
        pytest.param({**RANK, "HOROVOD_GLOO_IFACE": "lo"}, "127.0.0.1", id="one host"),
        pytest.param(RANK, "10.0.0.2", id="towards the rendezvous"),
        pytest.param({**RANK, "HOROVOD_GLOO_RENDEZVOUS_ADDR": "192.0.2.9"}, None, id="no route"),
    ],
)
def test_gradients_leave_from_the_interface_that_was_asked_for(environment: Mapping[str, str], address: str | None) -> None:
    assert gloo_address.data_address(environment) == address


@pytest.mark.parametrize(
    ("own", "found", "address"),
    [
        ("10.0.0.3", "ib0,eth0", "10.0.0.3"),
        ("10.0.0.3", "ib0", "2001:db8::2"),  # the only one that was asked for
        ("127.0.1.1", "ib0,eth0", "2001:db8::2"),
        ("10.0.0.3", "eth0", "2001:db8::2"),  # NCCL's own setting
        (None, "ib0,eth0", "2001:db8::2"),
    ],
)
def test_of_several_interfaces_that_horovodrun_found_it_is_that_of_the_host_s_name(
    own: str | None, found: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gloo_address, "hostname_address", lambda: own)
    assert gloo_address.data_address({**RANK, "HOROVOD_GLOO_IFACE": "ib0", "NCCL_SOCKET_IFNAME": found}) == address


@pytest.mark.parametrize("interface", ["eth9", "down0"])
def test_an_interface_without_an_address_is_refused_with_those_that_there_are(interface: str) -> None:
    available = r"\(it has lo 127.0.0.1, eth0 10.0.0.2, ib0 2001:db8::2\); specify one"
    with pytest.raises(RequestError, match=rf"HOROVOD_GLOO_IFACE is {interface}, but node1 .* {available}"):
        gloo_address.data_address({**RANK, "HOROVOD_GLOO_IFACE": interface})


@pytest.mark.parametrize("own", ["127.0.1.1", None, "2001:db8::2"])
def test_where_horovod_cannot_be_given_the_address_its_own_must_be_of_that_interface(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gloo_address, "_pointers_to_gethostname", lambda: [])
    monkeypatch.setattr(gloo_address, "hostname_address", lambda: own)
    expected = f"node1 must be sent from eth0 .10.0.0.2., .* which is {own or 'unknown'}; put the line '10.0.0.2 node1' into /"
    requested = gloo_address.on_requested_interface({**RANK, "HOROVOD_GLOO_IFACE": "eth0"})
    with pytest.raises(RequestError, match=expected), requested:
        pytest.fail("Horovod was started")


@pytest.mark.parametrize(("wanted", "own"), [("10.0.0.2", "10.0.0.3"), ("127.0.0.1", "10.0.0.3"), ("127.0.0.1", None)])
def test_any_address_of_that_interface_will_do_and_any_at_all_within_one_host(wanted: str, own: str | None) -> None:
    gloo_address.require_same_interface(wanted, own)


def test_only_horovod_s_library_takes_the_address_for_the_host_s_name_and_only_meanwhile() -> None:
    slots = gloo_address._pointers_to_gethostname()
    assert slots, "Horovod is linked otherwise"
    buffer = ctypes.create_string_buffer(65)

    def called(slot: gloo_address._Slot, size: int) -> int:
        function = ctypes.c_void_p.from_address(slot.address).value
        assert function is not None
        return gloo_address._GETHOSTNAME(function)(ctypes.addressof(buffer), size)

    with gloo_address.on_requested_interface({**RANK, "HOROVOD_GLOO_IFACE": "eth0"}):
        assert [called(slot, 65) for slot in slots] == [0] * len(slots) and buffer.value == b"10.0.0.2"
        assert [called(slot, 8) for slot in slots] == [-1] * len(slots)
        ctypes.CDLL(None).gethostname(buffer, 65)
        assert buffer.value != b"10.0.0.2"
    assert gloo_address._pointers_to_gethostname() == slots
