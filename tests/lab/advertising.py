"""Routers of the lab's networks that advertise themselves by IPv6."""

from __future__ import annotations

from .lab import Lab
from .network import Site
from .waiting import wait_until


def advertise(lab: Lab, site: Site, domain: str = "", resolver: str = "") -> None:
    """Let a router advertise itself from now on, by dnsmasq(8); nobody hands out DHCPv6 leases."""
    options = ["--conf-file=/dev/null", "--port=0", "--user=root", "--interface=lan", "--bind-interfaces"]
    options += ["--enable-ra", f"--dhcp-range={site.prefix6},ra-only,64", "--dhcp-leasefile=/dev/null"]
    options += [f"--pid-file=/run/ra-{site.name}.pid", f"--log-facility=/run/ra-{site.name}.log"]
    options += [f"--dhcp-option=option6:domain-search,{domain}"] if domain else []
    options += [f"--dhcp-option=option6:dns-server,[{resolver}]"] if resolver else []
    lab.network.run(site.name, ["dnsmasq", *options])


def wait_for_router(lab: Lab) -> None:
    """Wait until the laptop has its default route from an advertisement."""
    routes = ["ip", "-6", "route", "show", "default", "proto", "ra"]
    wait_until(lambda: lab.laptop.run(routes).stdout, "a router to advertise itself")
