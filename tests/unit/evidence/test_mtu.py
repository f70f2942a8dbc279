"""The test ``mtu``."""

from __future__ import annotations

import errno

import pytest

from netconf_hooks.evidence import Link, mtu
from netconf_hooks.observation import Answer
from netconf_hooks.system.netlink import LinkStatus, NetlinkError

LINK = Link("eth0:1", "eth0", 7, True, {})


@pytest.mark.parametrize("status, answer", [
    (LinkStatus(7, "eth0", 0, True, True, "", mtu=1492), Answer(("1492",))),
    (None, Answer(problem="no such interface")),
])
def test_mtu(monkeypatch: pytest.MonkeyPatch, status: LinkStatus | None, answer: Answer) -> None:
    monkeypatch.setattr(mtu, "read_link", {"eth0": status}.__getitem__)
    assert mtu.observe(["mtu"], LINK, 0.0) == {"mtu": answer}


def test_a_kernel_that_can_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: str) -> LinkStatus:
        raise NetlinkError(errno.ENOBUFS)

    monkeypatch.setattr(mtu, "read_link", refuse)
    answer = mtu.observe(["mtu"], LINK, 0.0)["mtu"]
    assert answer.pending and answer.values == () and "could not be read" in answer.problem
