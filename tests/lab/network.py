"""The networks of the lab: home, office and café, the internet between them, a VPN gateway and a host behind it.

::

    laptop (eth0, wlan0) --- home | office | cafe --- internet --- vpn --- corp
      DHCP             192.168.N.1        203.0.113.1N  .254   203.0.113.1   10.99.0.1

Each is a network namespace.  A router translates addresses (NAT) and runs a real dnsmasq which hands out addresses and
a domain of its own.  10.99.0.1 has no route from the internet: it answers only through a tunnel to 203.0.113.1.
All addresses are those reserved for documentation and private use (RFC 5737, RFC 3849, RFC 1918).
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from netconf_hooks.system.netlink import IFF_UP, read_link

from .attacks.place import call_in
from .closing import Closing
from .namespaces import Namespaces, Running
from .waiting import wait_until


class Site(NamedTuple):
    """One network that the laptop can be plugged into."""

    name: str
    number: int
    domain: str
    router_mac: str

    @property
    def router(self) -> str:
        """The router's IPv4 address."""
        return f"192.168.{self.number}.1"

    @property
    def prefix6(self) -> str:
        """The network's IPv6 prefix, without its length (64)."""
        return f"2001:db8:{self.number}::"


HOME = Site("home", 1, "home.example", "52:54:00:0a:00:01")
OFFICE = Site("office", 2, "corp.example.com", "00:16:3e:11:22:33")
CAFE = Site("cafe", 3, "cafe.example", "02:00:5e:00:03:01")
SITES = (HOME, OFFICE, CAFE)
LINKS = ("eth0", "wlan0")

IFF_RUNNING = 0x40  # linux/if.h

VPN_GATEWAY = "203.0.113.1"
INTERNET_HOST = "198.51.100.1"
CORP_HOST = "10.99.0.1"

_NAT = """
table ip nat {
    chain postrouting { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
}
"""


# A name of VPN servers that tests let resolve or not, and the nftables rules with which a site's name server is silent.
DYNAMIC = "dynamic.example.net"
SILENT_DNS = "table ip silent { chain c { type filter hook input priority 0; udp dport 53 drop; }; }"


class Network(Closing):
    """All networks, and the laptop's network namespace with unplugged links; `run` starts programs anywhere in them.

    Usable as a context manager; `close` ends every router, server and namespace.
    """

    def __init__(self, sites: Sequence[Site] = SITES, links: Sequence[str] = LINKS) -> None:
        self.sites = {site.name: site for site in sites}
        self.links = tuple(links)
        self._namespaces = Namespaces(("mnt", "net"))
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything."""
        self._namespaces.close()

    def namespace(self, name: str) -> str:
        """Return the file of the network namespace of ``laptop``, ``vpn``, ``corp``, ``internet`` or a site.

        Valid also outside, for nsenter(1) ``--net=`` and systemd-nspawn(1) ``--network-namespace-path=``.
        """
        return f"{self._namespaces.root}/run/netns/{name}"

    @property
    def laptop_namespace(self) -> str:
        """The file of the laptop's network namespace."""
        return self.namespace("laptop")

    @property
    def wire_namespace(self) -> str:
        """The file of the network namespace with all cables and switches: each link's far end has the link's name."""
        return self._namespaces.files["net"]

    def run(
        self,
        name: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60.0,
        text: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the network namespace `name`, `text` on its standard input, to its end.

        It sees the machine's own file system but a /run of the networks.  Daemons that it starts live until `close`.
        Raises `namespaces.CommandFailed`, and TimeoutError after `timeout` seconds.
        """
        return self._namespaces.run(
            argv, check=check, timeout=timeout, text=text, env=env, net=self.namespace(name)
        )

    def start(self, name: str, argv: Sequence[str], *, text: str | None = None) -> Running:
        """Start a program in the network namespace `name`, `text` on its standard input, without waiting for it."""
        return self._namespaces.start(argv, text=text, net=self.namespace(name))

    def processes(self) -> dict[int, str]:
        """Return the command lines of all servers by pid."""
        return self._namespaces.processes()

    def read(self, path: str) -> str:
        """Return the text of a file under the networks' /run; empty when there is none (yet)."""
        try:
            return (self._namespaces.root / path.lstrip("/")).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def write(self, path: str, text: str) -> None:
        """Write a file under the networks' /run."""
        file = self._namespaces.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)

    def router_log(self, site: str) -> str:
        """Return what the site's dnsmasq has logged: each DHCP exchange."""
        return self.read(f"/run/dnsmasq-{site}.log")

    def plug(self, site: str, link: str) -> None:
        """Plug the laptop's `link` into a site, out of wherever it was: carrier is lost and comes back."""
        self._batch(f"link set {link} down", f"link set {link} master {self.sites[site].name}")
        # The kernel tells of a loss a moment later, and of none if the carrier is back by then (net/core/link_watch.c).
        wait_until(lambda: not self._is_running(link), f"the kernel to tell that {link} has lost its carrier")
        self._batch(f"link set {link} up")

    def _is_running(self, link: str) -> bool:
        """Whether the laptop's `link` has carrier, by what its kernel has told last."""
        status = call_in(self.laptop_namespace, lambda: read_link(link))
        return status is not None and bool(status.flags & IFF_RUNNING)

    def unplug(self, link: str) -> None:
        """Pull the plug: the laptop's `link` loses its carrier."""
        self._batch(f"link set {link} down", f"link set {link} nomaster")

    def replug(self, site: str, link: str) -> None:
        """Plug the laptop's `link` into another site so quickly that its kernel mostly does not tell of the loss.

        By pyroute2, since ip(8) waits for the kernel's answer after each line, even in a batch.
        """
        call_in(self.wire_namespace, lambda: _move_at_once(link, self.sites[site].name))

    def move(self, site: str, link: str) -> None:
        """Put the laptop's `link` into another site behind its back: the carrier stays, as behind a switch."""
        self._batch(f"link set {link} master {self.sites[site].name}")

    def rename_domain(self, site: str, domain: str) -> None:
        """Let the site's router hand out another domain from now on."""
        self.change_dhcp(site, domain=domain)

    def change_dhcp(self, site: str, *options: str, domain: str = "", prefix: str = "") -> None:
        """Let the site's router hand out something else from now on, and answer other names.

        options: of dnsmasq(8), before its usual ones; domain: else the site's; prefix: of the addresses, three numbers,
        else the site's.
        """
        pid = self.read(f"/run/dnsmasq-{site}.pid").strip()
        self.run(site, ["kill", pid])
        # Not only until its pid file is gone: it still has its sockets then.
        wait_until(lambda: int(pid) not in self.processes(), "dnsmasq to end")
        chosen = self.sites[site]
        self._serve_dhcp(chosen, domain or chosen.domain, options, prefix)

    def announce_ipv6(self, site: str) -> None:
        """Let the site's router send IPv6 router advertisements, with prefix, resolver and domain, from now on."""
        chosen = self.sites[site]
        self._start_dnsmasq(
            site,
            "ipv6",
            "--port=0",
            "--enable-ra",
            f"--domain={chosen.domain}",
            f"--dhcp-option=option6:domain-search,{chosen.domain}",
            f"--dhcp-range={chosen.prefix6},ra-stateless,64",
        )

    def _build(self) -> None:
        self._namespaces.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
        # The namespace of its own in which all cables and switches (bridges) lie.
        names = ("laptop", "internet", "vpn", "corp", *self.sites)
        self._batch(*(f"netns add {name}" for name in names), *self._wires())
        self._set_up_internet()
        self._set_up_vpn()
        for site in self.sites.values():
            self._set_up_site(site)

    def _wires(self) -> list[str]:
        lines = []
        for switch in ("internet", *self.sites):
            lines += [f"link add {switch} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"]
            lines += [f"link set {switch} addrgenmode none", f"link set {switch} up"]
        for number, link in enumerate(self.links, 1):
            peer = f"peer name {link} address 02:00:5e:00:10:{number:02x} netns laptop"
            lines += [f"link add {link} type veth {peer}", f"link set {link} addrgenmode none"]
        uplinks = [("internet", "eth0"), ("vpn", "eth0"), *((site, "wan") for site in self.sites)]
        for name, device in uplinks:
            lines += _cable(f"{name}-up", "internet", name, device)
        for site in self.sites.values():
            lines += _cable(f"{site.name}-lan", site.name, site.name, f"lan address {site.router_mac}")
        lines += ["link add corp-lan netns vpn type veth peer name eth0 netns corp"]
        return lines

    def _set_up_internet(self) -> None:
        self._batch(
            "link set lo up",
            f"addr add {INTERNET_HOST}/32 dev lo",
            "addr add 203.0.113.254/24 dev eth0",
            "addr add 2001:db8:ffff::1/64 dev eth0 nodad",
            "link set eth0 up",
            # As a provider does: private addresses have no route, and who asks is told so at once.
            *(f"route add unreachable {network}" for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),
            *(f"route add {site.prefix6}/64 via 2001:db8:ffff::1{site.number}" for site in self.sites.values()),
            name="internet",
        )
        self._forward("internet")

    def _set_up_vpn(self) -> None:
        self._batch(
            "link set lo up",
            f"addr add {VPN_GATEWAY}/24 dev eth0",
            "link set eth0 up",
            "route add default via 203.0.113.254",
            "addr add 10.99.0.254/24 dev corp-lan",
            "link set corp-lan up",
            name="vpn",
        )
        self._forward("vpn")
        self._batch(
            "link set lo up",
            f"addr add {CORP_HOST}/24 dev eth0",
            "link set eth0 up",
            "route add default via 10.99.0.254",
            name="corp",
        )
        # Something that answers TCP, and names, behind the VPN.
        self._start_dnsmasq("corp", "dns", "--interface=eth0", f"--address=/{OFFICE.domain}/{CORP_HOST}")

    def _set_up_site(self, site: Site) -> None:
        self._batch(
            "link set lo up",
            f"addr add {site.router}/24 dev lan",
            f"addr add {site.prefix6}1/64 dev lan nodad",
            # Ready at once: the address that router advertisements come from is given, not made and then tested.
            "link set lan addrgenmode none",
            "addr add fe80::1/64 dev lan nodad",
            "link set lan up",
            f"addr add 203.0.113.1{site.number}/24 dev wan",
            f"addr add 2001:db8:ffff::1{site.number}/64 dev wan nodad",
            "link set wan up",
            "route add default via 203.0.113.254",
            "route add default via 2001:db8:ffff::1",
            name=site.name,
        )
        self._forward(site.name)
        self.run(site.name, ["nft", "-f", "-"], text=_NAT)
        self._serve_dhcp(site, site.domain)

    def _serve_dhcp(self, site: Site, domain: str, options: Sequence[str] = (), prefix: str = "") -> None:
        prefix = prefix or f"192.168.{site.number}"
        self._start_dnsmasq(
            site.name,
            "",
            *options,
            "--dhcp-authoritative",
            # The address asked for is given at once: no pause to see whether it is in use.
            "--no-ping",
            f"--domain={domain}",
            f"--dhcp-range={prefix}.100,{prefix}.150,255.255.255.0,1h",
            f"--dhcp-leasefile=/run/dnsmasq-{site.name}.leases",
            "--log-dhcp",
            f"--address=/router.{domain}/{site.router}",
            f"--address=/vpn.example.net/{VPN_GATEWAY}",
            f"--address=/www.example.net/{INTERNET_HOST}",
        )

    def _start_dnsmasq(self, name: str, purpose: str, *options: str) -> None:
        service = f"dnsmasq-{name}{purpose and '-' + purpose}"
        self.run(
            name,
            [
                "dnsmasq",
                "--conf-file=/dev/null",
                "--no-hosts",
                "--no-resolv",
                "--user=root",
                "--group=root",
                "--bind-interfaces",
                f"--pid-file=/run/{service}.pid",
                f"--log-facility=/run/{service}.log",
                *(() if any(option.startswith("--interface") for option in options) else ("--interface=lan",)),
                *options,
            ],
        )

    def _forward(self, name: str) -> None:
        self.run(name, ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])

    def _batch(self, *lines: str, name: str = "") -> None:
        """Run ip(8) commands, all in one process: in the namespace `name`, or where the cables lie."""
        place = ["-n", name] if name else []
        self._namespaces.run(["ip", *place, "-batch", "-"], text="".join(f"{line}\n" for line in lines))


def _move_at_once(link: str, switch: str) -> None:
    """Unplug a link of this namespace and plug it into a switch, by one message to the kernel."""
    from pyroute2 import IPBatch, IPRoute  # takes 0.2 s

    with IPRoute() as kernel, IPBatch() as batch:
        (index,), (master,) = kernel.link_lookup(ifname=link), kernel.link_lookup(ifname=switch)
        # Two messages and not three: the kernel may tell of the loss between any two.
        batch.link("set", index=index, state="down")
        batch.link("set", index=index, master=master, state="up")
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sender:
            sender.sendto(bytes(batch.batch), (0, 0))  # returns when all of it is done
        (moved,) = kernel.get_links(index)
        assert moved.get_attr("IFLA_MASTER") == master and moved["flags"] & IFF_UP, moved


def _cable(end: str, switch: str, name: str, device: str) -> list[str]:
    """Return the commands that lay a cable from a switch to the `device` (name and options) of a namespace."""
    # The options of both ends stand before "type": iproute2 takes them for the near end otherwise (ip-link(8)).
    return [
        f"link add {end} type veth peer name {device} netns {name}",
        f"link set {end} master {switch} addrgenmode none up",
    ]
