"""What the address observer makes of what the kernel says of a device's addresses."""

from __future__ import annotations

import errno

import pytest

from netconf_hooks.evidence import Link, address
from netconf_hooks.observation import Answer
from netconf_hooks.system.netlink import LinkStatus, NetlinkError, OwnAddress

LINK = Link("eth0", "eth0", 2, True, {})


class Kernel:
    """Stands in for `netlink.Netlink`, whose own tests are in test_netlink.py."""

    addresses = {
        2: [
            OwnAddress(2, "192.168.7.50", 24),
            OwnAddress(2, "192.168.9.1", 24),
            OwnAddress(2, "2001:db8:7::50", 64),
            OwnAddress(2, "fe80::50", 64),
        ],
        3: [],
    }
    refusal: NetlinkError | None = None

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_link(self, device: str) -> LinkStatus | None:
        index = {"eth0": 2, "eth1": 3, "eth2": 4}.get(device)
        return LinkStatus(index, device, 0, True, True, "") if index else None

    def list_addresses(self, index: int) -> list[OwnAddress]:
        if self.refusal:
            raise self.refusal
        return self.addresses.get(index, [])


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(address, "Netlink", lambda: kernel)
    return kernel


def test_addresses_of_a_device() -> None:
    answer = address.observe(("address",), LINK, 0.0)["address"]
    assert answer == Answer(("192.168.7.50", "192.168.9.1", "2001:db8:7::50", "fe80::50"))


def test_networks_of_a_device() -> None:
    networks = (("192.168.7.50", 24), ("192.168.9.1", 24), ("2001:db8:7::50", 64), ("fe80::50", 64))
    assert address.list_networks("eth0") == networks


def test_one_address_with_two_prefixes_is_one_address(kernel: Kernel) -> None:
    kernel.addresses = {2: [OwnAddress(2, "192.168.7.50", 24), OwnAddress(2, "192.168.7.50", 16)]}
    assert address.list_addresses("eth0") == ("192.168.7.50",)
    assert address.list_networks("eth0") == (("192.168.7.50", 24), ("192.168.7.50", 16))


@pytest.mark.parametrize("device, index", [("eth1", 3), ("eth2", 4)])
def test_an_interface_without_addresses(device: str, index: int) -> None:
    link = Link(device, device, index, True, {})
    assert address.observe(("address",), link, 0.0) == {"address": Answer(problem="no address")}


def test_an_interface_that_does_not_exist() -> None:
    link = Link("eth9", "eth9", 0, False, {})
    assert address.observe(("address",), link, 0.0) == {"address": Answer(problem="no such interface")}


def test_a_kernel_that_can_not_be_asked_leaves_it_open(kernel: Kernel) -> None:
    kernel.refusal = NetlinkError(errno.ETIMEDOUT)
    answer = address.observe(("address",), LINK, 0.0)["address"]
    assert (answer.values, answer.pending) == ((), True)
    assert "Connection timed out" in answer.problem


def test_names() -> None:
    assert address.observe(("interface",), LINK, 0.0) == {"interface": Answer(("eth0",))}
    alias = Link("eth0:1", "eth0", 2, True, {})
    assert address.observe(("interface", "address"), alias, 0.0)["interface"] == Answer(("eth0", "eth0:1"))
