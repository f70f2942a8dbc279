"""Two uplinks at once: in every order, sharing and vetoing, cables pulled and moved.  After each step the right tunnels
run, and none was restarted needlessly.

What is right is said here once more, in a few lines, and not asked of the code that is tested.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from .lab import Lab
from .laptop import Image
from .network import CORP_HOST, HOME, LINKS, OFFICE, SITES
from .stanzas import ROAMING, find_records, find_tunnels, read_status, wait_for_no_tunnel, wait_for_tunnel
from .waiting import wait_until

# Of the stanza in ROAMING: where a tunnel is vetoed.
VETOED = ("home-lan", "office-lan")
OTHER_DOMAIN = "moved.example"
DOMAINS = {site.name: site.domain for site in SITES}

EVENTS = "/run/told"
NOTE_EVENTS = f'#!/bin/sh\necho "$1" >>{EVENTS}\n'


class Truth(NamedTuple):
    """How things stand, kept by the test.  up, plugged, leased: by link; the domain of the lease it has."""

    up: dict[str, bool]
    plugged: dict[str, str]
    leased: dict[str, str]

    def list_counting(self) -> list[str]:
        """The links that are up and plugged in."""
        return [link for link in LINKS if self.up[link] and self.plugged[link]]

    def find_location(self, link: str) -> str | None:
        """Where a link is, by the lines of ROAMING."""
        site = self.plugged[link]
        if site == HOME.name:
            return "home-lan"
        if site == OFFICE.name and self.leased[link] == OFFICE.domain:
            return "office-lan"
        return None

    def is_wanted(self) -> bool:
        """Whether the tunnel is to run: some link wants it and none vetoes it."""
        locations = [self.find_location(link) for link in self.list_counting()]
        return bool(locations) and not any(location in VETOED for location in locations)

    def list_presences(self) -> set[str]:
        """Of which the scripts in event.d were told that they are connected."""
        counting = self.list_counting()
        locations = {self.find_location(link) for link in counting}
        return {location for location in locations if location} | ({"inet"} if counting else set())


class Story:
    """A lab in which things happen, and how they stand then."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.domains = dict(DOMAINS)
        self.truth = Truth(dict.fromkeys(LINKS, False), dict.fromkeys(LINKS, ""), dict.fromkeys(LINKS, ""))
        self.tunnel = 0  # the pid of the OpenVPN that runs
        lab.laptop.write("/etc/network/interfaces", ROAMING)
        lab.laptop.write("/etc/netconf-hooks/event.d/note", NOTE_EVENTS, 0o755)

    def do(self, what: str, link: str, site: str = "") -> None:
        """Do one step; one that makes no sense as things stand is left out."""
        getattr(self, what)(link, *([site] if site else []))

    def plug(self, link: str, site: str) -> None:
        """Push the cable in, out of wherever it was.  A link that is up asks for a lease (dhcpcd does).

        The kernel has to have told of the lost carrier before it comes back: it tells of carriers once a second at most
        (net/core/link_watch.c), and of none that was lost and found in between, so dhcpcd would keep its lease.
        """
        if self.truth.plugged[link] == site:
            return
        if self.truth.plugged[link]:
            self.lab.unplug(link)
            wait_until(lambda: self._read_operstate(link) != "UP", "the kernel to tell of the lost carrier")
        self.lab.plug(site, link)
        self.truth.plugged[link] = site
        self.truth.leased[link] = self.domains[site]

    def unplug(self, link: str) -> None:
        """Pull the cable, and nothing else."""
        if self.truth.plugged[link]:
            self.lab.unplug(link)
            self.truth.plugged[link] = ""

    def ifup(self, link: str) -> None:
        """ifup, where something is plugged in: ifup itself fails where nothing is."""
        if self.truth.plugged[link] and not self.truth.up[link]:
            self.lab.laptop.ifup(link)
            self.truth.up[link] = True
            self.truth.leased[link] = self.domains[self.truth.plugged[link]]

    def ifdown(self, link: str) -> None:
        """ifdown, plugged in or not."""
        if self.truth.up[link]:
            self.lab.laptop.ifdown(link)
            self.truth.up[link] = False

    def force(self, link: str) -> None:
        """ifup --force of a link that is up."""
        if self.truth.up[link] and self.truth.plugged[link]:
            self.lab.laptop.ifup("--force", link, check=False)

    def rename(self, link: str) -> None:
        """The site that the link is plugged into announces another domain (or its own again), and the lease is renewed.

        Another link there keeps what its lease says, until it is renewed.
        """
        site = self.truth.plugged[link]
        if not site:
            return
        self.domains[site] = OTHER_DOMAIN if self.domains[site] == DOMAINS[site] else DOMAINS[site]
        self.lab.network.rename_domain(site, self.domains[site])
        if self.truth.up[link]:
            self.lab.laptop.run(["dhcpcd", "--rebind", link])
            self.truth.leased[link] = self.domains[site]

    def refresh(self, link: str) -> None:
        """netconf-hooks refresh, of a link that has a record or of all."""
        self.lab.laptop.run(["netconf-hooks", "refresh", *([link] if self.truth.up[link] else [])])

    def settle(self, moved: str = "") -> None:
        """Wait until what runs, what is said of it, and what was told is as it should be.

        moved: the link that was pushed in elsewhere.  A tunnel that ran before and is to run now is the same one,
        unless no other link needs it.
        """
        before = self.tunnel
        wanted = self.truth.is_wanted()
        wait_until(lambda: len(find_tunnels(self.lab)) == wanted, f"the tunnel to be {wanted}: {self.truth}")
        expected = {link: self.truth.find_location(link) for link in self.truth.list_counting()}
        wait_until(lambda: self._read_locations() == expected, f"the locations {expected}")
        expected_presences = self.truth.list_presences()
        wait_until(lambda: self.read_presences() == expected_presences, f"to have been told of {expected_presences}")
        assert len(find_tunnels(self.lab)) == wanted
        (self.tunnel,) = find_tunnels(self.lab) or [0]
        if before and self.tunnel and self.truth.list_counting() != [moved]:
            assert self.tunnel == before, "restarted needlessly"

    def check(self) -> None:
        """As `settle`, at once: what ifup and ifdown bring about is done when they return.

        A tunnel that ran before and is to run now is the same one.
        """
        before = self.tunnel
        tunnels = find_tunnels(self.lab)
        assert len(tunnels) == self.truth.is_wanted(), self.truth
        self.tunnel = sum(tunnels)
        if before and self.tunnel:
            assert self.tunnel == before, "restarted needlessly"

    def read_presences(self) -> set[str]:
        """Return what the events so far came to; each must have been an edge."""
        connected: set[str] = set()
        for event in self.lab.laptop.read(EVENTS).splitlines() if self.lab.laptop.exists(EVENTS) else []:
            name, _, what = event.rpartition("-")
            assert (what == "connected") == (name not in connected), f"{event} is no edge"
            connected ^= {name}
        return connected

    def reset(self) -> None:
        """Take all down, and see that nothing is left."""
        for link in LINKS:
            self.ifdown(link)
            self.unplug(link)
        for site, domain in DOMAINS.items():
            if self.domains[site] != domain:
                self.lab.network.rename_domain(site, domain)
        self.domains = dict(DOMAINS)
        wait_until(lambda: not self.lab.laptop.processes(), "all processes to end")
        assert find_records(self.lab) == []
        assert self.read_presences() == set()
        self.lab.laptop.run(["rm", "-f", EVENTS])
        self.tunnel = 0

    def _read_operstate(self, link: str) -> str:
        """Return the state of a link, which the kernel changes when it tells of a carrier."""
        state: str = json.loads(self.lab.laptop.run(["ip", "-json", "link", "show", link]).stdout)[0]["operstate"]
        return state

    def _read_locations(self) -> dict[str, object]:
        interfaces = read_status(self.lab)["interfaces"]
        return {
            link: "undecided" if facts["undecided"] else facts["location"]
            for link, facts in interfaces.items()
            if facts["counts"]
        }


@pytest.fixture
def story(lab: Lab) -> Iterator[Story]:
    """A story that ends with everything taken down."""
    made = Story(lab)
    yield made
    made.reset()


ORDERS = [
    [(verb, link) for verb, link in order]
    for order in permutations([(verb, link) for verb in ("ifup", "ifdown") for link in LINKS])
    if all(order.index(("ifup", link)) < order.index(("ifdown", link)) for link in LINKS)
]


@pytest.mark.parametrize("dhcp_client", ["dhcpcd"])  # the quicker one, and the order is the same
@pytest.mark.parametrize("sites", [("cafe", "cafe"), ("cafe", "office")], ids="-".join)
def test_up_and_down_in_every_order(story: Story, sites: tuple[str, str]) -> None:
    """Sharing and vetoing."""
    assert len(ORDERS) == 6
    for link, site in zip(LINKS, sites, strict=True):
        story.plug(link, site)
    wanted = set()
    for order in ORDERS:
        for what, link in order:
            story.do(what, link)
            story.check()
            wanted.add(story.truth.is_wanted())
    assert wanted == {True, False}


def test_from_the_cafes_wifi_to_the_offices_cable_and_back(story: Story) -> None:
    lab = story.lab
    story.plug("wlan0", "cafe")
    story.ifup("wlan0")
    assert wait_for_tunnel(lab)
    story.check()
    # In the office the cable comes first, and then the café's Wi-Fi is out of reach.
    story.plug("eth0", "office")
    story.ifup("eth0")
    story.check()
    assert "office-lan" in str(read_status(lab)["tunnels"]["openvpn corp"]["because"])
    story.ifdown("wlan0")
    story.check()
    # And back: the cable goes, nothing is up for a while, the Wi-Fi comes.
    story.ifdown("eth0")
    story.check()
    story.ifup("wlan0")
    story.check()
    assert wait_for_tunnel(lab) == story.tunnel
    # A second way to the café: the tunnel stays, and goes on over what is left.
    story.plug("eth0", "cafe")
    story.ifup("eth0")
    story.check()
    story.ifdown("wlan0")
    story.check()
    assert wait_for_tunnel(lab) == story.tunnel


def test_a_cable_pulled_without_ifdown(story: Story) -> None:
    """Nothing is typed: the watcher notices."""
    lab = story.lab
    # The office on the link with the higher metric: dhclient leaves its default route there, and it would go first.
    story.plug("eth0", "cafe")
    story.plug("wlan0", "office")
    for link in LINKS:
        story.ifup(link)
    story.check()
    assert not story.tunnel
    story.unplug("wlan0")
    story.settle()
    assert wait_for_tunnel(lab) == story.tunnel
    lab.laptop.run(["netconf-hooks", "refresh"])
    story.check()
    # It is the tunnel of the link that is left: ifdown of the other changes nothing.
    story.ifdown("wlan0")
    story.check()
    # The last link that wants it loses its cable, too, and gets it back.
    story.unplug("eth0")
    story.settle()
    assert not story.tunnel
    story.plug("eth0", "cafe")
    story.settle()
    assert wait_for_tunnel(lab) == story.tunnel


def test_a_shared_tunnel_outlives_the_cable_of_one(story: Story) -> None:
    lab = story.lab
    for link in LINKS:
        story.plug(link, "cafe")
        story.ifup(link)
    story.check()
    assert wait_for_tunnel(lab) == story.tunnel
    story.unplug("wlan0")
    wait_until(lambda: read_status(lab)["interfaces"]["wlan0"]["counts"] is False, "the loss to be seen")
    story.check()
    story.plug("wlan0", "cafe")
    story.check()
    assert lab.laptop.pings(CORP_HOST)
    story.unplug("eth0")
    story.unplug("wlan0")
    wait_for_no_tunnel(lab)


# --- whatever happens


steps = st.one_of(
    st.tuples(st.just("plug"), st.sampled_from(LINKS), st.sampled_from(sorted(DOMAINS))),
    st.tuples(
        st.sampled_from(["ifup", "ifup", "ifdown", "unplug", "force", "rename", "refresh"]), st.sampled_from(LINKS)
    ),
)
# Else most examples would begin with cables that lie about.
beginnings = st.tuples(*(st.tuples(st.just("plug"), st.just(link), st.sampled_from(sorted(DOMAINS))) for link in LINKS))

Steps = list[tuple[str, ...]]


@pytest.fixture(scope="module")
def long_story(image: Image) -> Iterator[Story]:
    """One lab for all examples.  dhcpcd: it asks for another lease when the cable comes back (dhclient does not)."""
    with Lab(image, "dhcpcd") as lab:
        yield Story(lab)


@settings(
    max_examples=18,
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    # To make a failed story shorter would play it for minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(beginning=beginnings, then=st.lists(steps, min_size=6, max_size=10))
@example(
    beginning=(("plug", "eth0", "office"), ("plug", "wlan0", "cafe")),
    then=[("ifup", "eth0"), ("ifup", "wlan0"), ("rename", "eth0"), ("unplug", "wlan0"), ("rename", "eth0")],
)
def test_whatever_happens_what_runs_is_what_the_links_that_are_up_want(
    long_story: Story, beginning: Steps, then: Steps
) -> None:
    story = long_story
    try:
        for step in (*beginning, *then):
            note(" ".join(step))
            story.do(*step)
            story.settle(moved=step[1] if step[0] == "plug" else "")
    except (AssertionError, TimeoutError):
        for title, text in story.lab.logs().items():
            note(f"--- {title}\n{text[-4000:]}")
        raise
    finally:
        story.reset()
