"""The domains and resolvers that a link announced: the tests ``dns-domain`` and ``dns-server``.

Only records of this link alone are read: the stanza's ``dns-*`` options, dhclient's leases, the records that dhcpcd's
hook keeps for each interface, and those of resolvconf and openresolv.  If none of these has anything about the link,
the next sources are, in this order: systemd-networkd's records, systemd-resolved, dhcpcd itself, and
``/etc/resolv.conf``, the last only if it can't belong to another link.  If a key is still without a value, the IPv6
routers are asked (`advertisement`).

Records can be outdated.  ifdown leaves resolv.conf as it is.  dhclient crashes when it should release a DHCPv6 lease
(isc-dhcp 4.4.3 in Debian 12), so in the café resolvconf's ``eth0.ip6.dhclient`` still names the domain of home.  A
client that is killed leaves all its records behind.  So a lease counts only while dhclient holds it
(`dhclient.find_held_leases`), and a client's record counts only if the client that runs now can have written it
(`_is_current`).

The network has sent these values, so they may contain any byte: what is not a valid domain or address is ignored.

Where the facts come from: dhcpcd's hook 20-resolv.conf (9.4.1 and 10.1.0 have the same);
resolvconf(8) and its dhclient hook; openresolv's resolvconf(8); the default.script of Debian's udhcpc; systemd's
src/resolve/resolvectl.c and src/network/networkd-state-file.c; the commands that ifupdown 0.8.41 starts.  Real
records of all of them are in tests/unit/evidence/fixtures/.
"""

from __future__ import annotations

import os
import time

from netconf_hooks.evidence.dhclient import LEASES, MOST, find_held_leases, is_leased_ipv4, read_end
from netconf_hooks.observation import Answer
from netconf_hooks.record import Record
from netconf_hooks.system.addresses import is_link_local, read_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from netconf_hooks.evidence import Link
    from netconf_hooks.evidence.dhclient import Lease


class Records(Record):
    """The directories of the records.

    leases: dhclient's directory of leases.  run: where programs keep pid files and records while the system is up
    (hier(7)).  resolv_conf: resolv.conf(5).  proc, net: the kernel's /proc and /sys/class/net.
    dhcpcd: dhcpcd's directory of leases.
    """

    __slots__ = ("leases", "run", "resolv_conf", "proc", "net", "dhcpcd")

    def __init__(
        self,
        leases: str = LEASES,
        run: str = "/run",
        resolv_conf: str = "/etc/resolv.conf",
        proc: str = "/proc",
        net: str = "/sys/class/net",
        dhcpcd: str = "/var/lib/dhcpcd",
    ) -> None:
        self.leases = leases
        self.run = run
        self.resolv_conf = resolv_conf
        self.proc = proc
        self.net = net
        self.dhcpcd = dhcpcd


RECORDS = Records()

SLACK = 2.0
"""Seconds by which a record may be older than the pid file of the client that wrote it: dhclient and udhcpc write their
pid file when they go to the background, which is after the first lease was applied."""

# resolvconf and openresolv name the records of an interface by its name and one of these suffixes.  For each suffix:
# whose pid file shows whether the writer still runs.  openresolv's dhclient hook uses no suffix.  Don't use a pattern:
# "eth0.100" is another interface.
_DHCLIENT = ("dhclient.{}.pid", "dhclient.pid")
_DHCLIENT6 = ("dhclient6.{}.pid", "dhclient6.pid")
_UDHCPC = ("udhcpc.{}.pid",)
_DHCPCD = ("dhcpcd/{}.pid", "dhcpcd/{}-4.pid", "dhcpcd/{}-6.pid", "dhcpcd/pid")
_DHCPCD_SUFFIXES = (".dhcp", ".dhcp6", ".ra", ".static", ".ipv4ll")
_WRITERS: dict[str, tuple[str, ...]] = {
    "": (),
    ".inet": (),
    ".inet6": (),
    ".dhclient": _DHCLIENT,
    ".ip6.dhclient": _DHCLIENT6,
    ".udhcpc": _UDHCPC,
    **dict.fromkeys(_DHCPCD_SUFFIXES, _DHCPCD),
}

_DOMAIN_NAME = 15  # the option of DHCPv4, RFC 2132 3.17
_LABEL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")

_IFF_LOOPBACK, _IFF_POINTOPOINT = 0x8, 0x10  # netdevice(7)


class Announcement(Record):
    """The valid values of one record, normalised.  domains: lower case, no final dot.  servers: as inet_ntop(3)."""

    __slots__ = ("domains", "servers")

    def __init__(self, domains: tuple[str, ...] = (), servers: tuple[str, ...] = ()) -> None:
        self.domains = domains
        self.servers = servers


def observe(
    keys: Collection[str], link: Link, deadline: float, records: Records = RECORDS
) -> dict[str, Answer]:
    """Answer ``dns-domain`` and ``dns-server`` for `link`.

    deadline: if dhcpcd is asked, it must answer until this time.monotonic().

    An answer is pending while dhcpcd still waits for an IPv4 lease: dhcpcd lets ifup continue as soon as either family
    has an address, and probes an IPv4 address for some seconds before it uses it (RFC 5227).  An answer is also pending
    while a router has not sent its advertisement.
    """
    evidence = _Evidence(link, records)
    evidence.read_stanza()
    evidence.read_dhclient()
    evidence.read_resolver_records()
    evidence.look_for_dhcpcd()
    if not evidence.found:
        evidence.read_systemd(deadline)
    if not evidence.found and not evidence.pending:
        evidence.ask_dhcpcd(deadline)
    if not evidence.domains and not evidence.pending:
        evidence.read_dhcpcd_leases()
    if not evidence.found and not evidence.pending:
        evidence.read_resolv_conf()
    if ("dns-domain" in keys and not evidence.domains or "dns-server" in keys and not evidence.servers) and (
        not evidence.pending
    ):
        evidence.ask_routers(deadline)
    answers = {}
    for key, values, what in (("dns-domain", evidence.domains, "domain"), ("dns-server", evidence.servers, "resolver")):
        if key in keys:
            answers[key] = Answer(tuple(values), evidence.pending, evidence.explain(what, bool(values)))
    return answers


class _Evidence:
    """The values of one link that were found so far.

    domains, servers: in order.  found: whether a program has a true record of this link, even if it names nothing: then
    the link announced nothing.  pending: whether more may come.
    """

    def __init__(self, link: Link, records: Records) -> None:
        self.domains: dict[str, None] = {}
        self.servers: dict[str, None] = {}
        self.found = False
        self.pending = False
        self._link = link
        self._records = records
        self._addresses: tuple[str, ...] | None = None
        self._has_ipv4_record = False
        self._unasked = ""
        self._unreadable: list[str] = []
        self._reasons: list[str] = []

    def explain(self, what: str, seen: bool) -> str:
        """Return why no `what` (domain or resolver) was seen, or not all, for the admin; empty if all were."""
        trouble = list(self._unreadable)
        if self._unasked:
            trouble.append(self._unasked)
        elif self.pending:
            trouble.append(f"dhcpcd still waits for an IPv4 lease of {self._link.device}")
        if not seen and not self.found:
            # Say why records don't count only if none counts: every machine has old ones.
            trouble += dict.fromkeys(self._reasons)
        because = "; ".join(trouble)
        if seen:
            return because
        missing = f"no DHCP lease, resolver record or dns- option of {self._link.iface} names a {what}"
        return f"{missing} ({because})" if because else missing

    def read_stanza(self) -> None:
        """Take the stanza's options, resolvconf(8)."""
        options = self._link.options
        domains = _list_words(options.get("dns-domain", "")) + _list_words(options.get("dns-search", ""))
        servers = _list_words(options.get("dns-nameservers", ""))
        # This option may be repeated and takes one address per line.
        servers += [word for line in options.get("dns-nameserver", "").splitlines() for word in _list_words(line)[:1]]
        self._add(_make_announcement(domains, servers))

    def read_dhclient(self) -> None:
        """Take the leases that dhclient holds on this link."""
        places = self._records
        held = find_held_leases(self._link.device, self._list_addresses, places.leases, places.run, places.proc)
        self._unreadable += held.unreadable
        self._reasons += held.reasons
        for lease in held.leases:
            self._add_found(read_dhclient_lease(lease))

    def read_resolver_records(self) -> None:
        """Take the records of dhcpcd's hook, resolvconf (``interface``) and openresolv (``interfaces``) of this link.

        With resolvconf installed, dhcpcd passes its records to resolvconf.
        """
        link, run = self._link, self._records.run
        names = {link.device + suffix: pids for suffix, pids in _WRITERS.items()}
        # ifupdown's own hooks use its name for the interface.
        names.update({link.iface + suffix: () for suffix in (".inet", ".inet6")})
        for directory in ("dhcpcd/hook-state/resolv.conf", "resolvconf/interface", "resolvconf/interfaces"):
            for name in sorted(self._list_directory(f"{run}/{directory}")):
                if name in names:
                    self._read_resolver_record(f"{run}/{directory}/{name}", names[name])

    def _read_resolver_record(self, path: str, pids: tuple[str, ...]) -> None:
        text = self._read(path)
        if text is None:
            return
        # openresolv(8), -C: dhcpcd marks the record of a wireless link that is between two access points.
        if os.path.exists(f"{self._records.run}/resolvconf/deprecated/{os.path.basename(path)}"):
            self._reasons.append(f"{path} is deprecated")
        elif pids and not self._is_current(path, pids):
            self._reasons.append(f"{path} was left by a DHCP client that no longer runs")
        else:
            announced = parse_resolver_record(text)
            # resolvconf's hook for ifupdown makes an empty record for every stanza without dns- options; ignore it.  An
            # empty record of a DHCP client means that the network announced nothing.
            if pids or announced != Announcement():
                self.found = True
            self._has_ipv4_record |= path.endswith((".dhcp", ".static", ".ipv4ll"))
            self._add(announced)

    def read_systemd(self, deadline: float) -> None:
        """Take what systemd-networkd and systemd-resolved know about this link, if they are running.

        Use them only if no other source has anything: Debian's hooks of dhclient and ifupdown also feed
        systemd-resolved, and its data can be outdated after dhclient has crashed.  Read systemd-networkd's own files,
        since neither networkctl(1) nor systemd-resolved shows a lease's domain without UseDomains= (systemd 252).
        systemd-networkd leaves the files behind when it ends (RuntimeDirectoryPreserve=).
        """
        index, run = self._link.index, f"{self._records.run}/systemd"
        if not index:
            return
        if self._runs_unit("systemd-networkd.service"):
            settings = parse_settings(self._read(f"{run}/netif/links/{index}") or "")
            lease = parse_settings(self._read(f"{run}/netif/leases/{index}") or "")
            if settings.get("ADMIN_STATE") in ("configuring", "configured"):
                self._add_found(read_networkd_link(settings))
            if read_address(lease.get("ADDRESS", "")) in self._list_addresses():
                self._add_found(read_networkd_lease(lease))
        if self._runs_unit("systemd-resolved.service"):
            self._ask_resolved(deadline)

    def _ask_resolved(self, deadline: float) -> None:
        """Take what resolvectl(1) shows for this link; an empty output is no record."""
        device = self._link.device
        answers = [self._run(["resolvectl", what, device], deadline) for what in ("domain", "dns")]
        words = [parse_resolvectl(answer, device) for answer in answers if answer is not None]
        if len(words) == len(answers) and any(words):
            self._add_found(_make_announcement(*words))

    def look_for_dhcpcd(self) -> None:
        """See whether dhcpcd still waits for an IPv4 lease of this link."""
        if not self._has_ipv4_record and self._runs_dhcpcd():
            self.pending = all(":" in address or is_link_local(address) for address in self._list_addresses())

    def read_dhcpcd_leases(self) -> None:
        """Take the domains from the DHCPv4 lease as dhcpcd received it: its other records leave out those with a
        comma."""
        if not self._runs_dhcpcd():
            return
        from netconf_hooks.evidence.dhcpcd import list_leases

        for message in list_leases(self._link.device, self._list_addresses(), self._records.dhcpcd):
            if message.version == 4 and (domain := message.options.get(_DOMAIN_NAME)):
                announced = _make_announcement([domain.decode("ascii", "replace")], ())
                if announced.domains:
                    self._add_found(announced)

    def ask_dhcpcd(self, deadline: float) -> None:
        """If dhcpcd runs for this link, ask it for its leases, and for what routers have advertised to it.

        It has a lease but no record if the lease names neither a domain nor a resolver, or if the admin has disabled
        the hook (``nohook resolv.conf``).

        A family is asked for only if dhcpcd has data about it: otherwise dhcpcd 9.4.1 of Debian 12 prints nothing, and
        never answers any client again ("cannot handle another client").
        """
        if self._runs_dhcpcd():
            families = ["-4"] if any(is_leased_ipv4(address) for address in self._list_addresses()) else []
            families += ["-6"] if find_advertising_routers(self._link.index)[0] else []
            for family in families:
                answer = self._run(["dhcpcd", family, "-U", self._link.device], deadline)
                if answer:
                    self._add_found(parse_dhcpcd_dump(answer))

    def _run(self, argv: list[str], deadline: float) -> str | None:
        """Return a program's output, if it ends within a second; None if it fails, and then note the reason."""
        from netconf_hooks.system import programs

        patience = min(1.0, deadline - time.monotonic())
        if patience <= 0:
            self._reasons.append(f"no time left to ask {argv[0]}")
            return None
        try:
            result = programs.run(argv, patience)
        except programs.ProgramError as error:
            self._reasons.append(str(error))
            return None
        if result.status:
            self._reasons.append(f"{' '.join(argv)} failed with status {result.status}")
            return None
        return result.output

    def ask_routers(self, deadline: float) -> None:
        """If the link's IPv6 routers advertise themselves, ask what else they advertise.

        This sends packets, if only few, so do it only if there is no record of a domain or a resolver.
        """
        routers, mac = find_advertising_routers(self._link.index)
        if not routers:
            return
        from netconf_hooks.evidence.advertisement import ask_routers, remember

        link = self._link
        try:
            advertised = ask_routers(link.device, link.index, mac, routers, deadline)
        except OSError as error:  # not root; no address of the link's own yet; a guard
            self._unasked = f"{', '.join(routers)} can't be asked what it advertises: {error.strerror}"
        else:
            remember(link, advertised)
            self._add_found(_make_announcement(advertised.domains, advertised.servers))
            if advertised.silent:
                self._unasked = f"{', '.join(advertised.silent)} did not answer a router solicitation"
        self.pending = bool(self._unasked)

    def read_resolv_conf(self) -> None:
        """Take resolv.conf(5) if udhcpc, which keeps no other record, wrote it for this link and nobody else can have.

        That is the case if

        - udhcpc runs for this link, by its pid file (interfaces(5), method dhcp);
        - the file is not a symbolic link, as with resolvconf and systemd-resolved, which merge all links;
        - it has only ``domain``, ``search`` and ``nameserver`` lines, as udhcpc's default.script writes them: other
          programs (dhcpcd, NetworkManager, vpnc, strongSwan) add a comment;
        - it is not older than this udhcpc: ifdown leaves the file of the previous network as it is;
        - no other link with carrier has an address, and ifupdown has not configured one since the file was written,
          whose client could have overwritten it.  A tunnel does not matter while the file is as old as this udhcpc:
          then it was written before a tunnel's script could write it, which is true until the lease is renewed.
        """
        path, device = self._records.resolv_conf, self._link.device
        pid_file = f"{self._records.run}/udhcpc.{device}.pid"
        try:
            status = os.lstat(path)
        except OSError:
            return
        try:
            started = os.stat(pid_file).st_mtime
        except OSError:
            self._reasons.append(f"{path} does not count: no udhcpc runs for {device}")
            return
        doubt = ""
        text = ""
        if status.st_mode & 0o170000 != 0o100000:
            doubt = "it is not a plain file"
        elif not self._runs_udhcpc(pid_file):
            doubt = f"no udhcpc runs for {device}"
        elif status.st_mtime < started - SLACK:
            doubt = f"it is older than the udhcpc of {device}"
        else:
            text = self._read(path) or ""
            if not is_written_by_udhcpc(text):
                doubt = "udhcpc did not write it"
            else:
                rival = self._find_rival(status.st_mtime, started)
                doubt = f"{rival} may have written it" if rival else ""
        if doubt:
            self._reasons.append(f"{path} does not count: {doubt}")
        else:
            self._add_found(parse_resolver_record(text))

    def _runs_unit(self, unit: str) -> bool:
        """Whether the unit is active: only then this symbolic link exists (unit_unlink_state_files, core/unit.c)."""
        return os.path.lexists(f"{self._records.run}/systemd/units/invocation:{unit}")

    def _runs_dhcpcd(self) -> bool:
        """Whether ifupdown started a dhcpcd for this link; a dhcpcd for all links (``dhcpcd/pid``) does not count."""
        pids = (f"dhcpcd/{self._link.device}.pid", f"dhcpcd/{self._link.device}-4.pid")
        return any(os.path.exists(f"{self._records.run}/{pid}") for pid in pids)

    def _runs_udhcpc(self, pid_file: str) -> bool:
        pid = (self._read(pid_file) or "").strip()
        if not (pid.isascii() and pid.isdecimal()):
            return False
        words = (self._read(f"{self._records.proc}/{pid}/cmdline") or "").split("\0")
        return any(word.rpartition("/")[2] == "udhcpc" for word in words[:2]) and self._link.device in words

    def _find_rival(self, written: float, started: float) -> str:
        """Return the name of another device for which resolv.conf may have been rewritten; empty if there is none.

        written: when it was written; started: when this link's udhcpc went to the background.
        """
        for name, flags, carrier in list_devices(self._records.net):
            if name == self._link.device or flags & _IFF_LOOPBACK:
                continue
            if flags & _IFF_POINTOPOINT:
                if written > started and carrier and find_addresses(name):
                    return name
                continue
            if carrier and any(not is_link_local(address) for address in find_addresses(name)):
                return name
            try:
                if os.stat(f"{self._records.run}/network/ifstate.{name}").st_mtime > written:
                    return name
            except OSError:
                pass  # ifupdown never had it up
        return ""

    def _is_current(self, path: str, pids: tuple[str, ...]) -> bool:
        """Return whether the client with one of these pid files can have written the record, and did not start
        later."""
        try:
            written = os.stat(path).st_mtime
        except OSError:
            return False
        for pid in pids:
            try:
                if written >= os.stat(f"{self._records.run}/{pid.format(self._link.device)}").st_mtime - SLACK:
                    return True
            except OSError:
                pass  # this one does not run
        return False

    def _list_addresses(self) -> tuple[str, ...]:
        if self._addresses is None:
            from netconf_hooks.system.netlink import NetlinkError

            try:
                self._addresses = find_addresses(self._link.device)
            except NetlinkError as error:
                self._addresses = ()
                self._unreadable.append(f"the addresses of {self._link.device} can't be read: {error}")
        return self._addresses

    def _read(self, path: str) -> str | None:
        """Return the end of a file (`read_end`); None if it can't be read, with the reason noted."""
        try:
            return read_end(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._unreadable.append(f"{path}: {error.strerror or error}")
            return None

    def _list_directory(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._unreadable.append(f"{path}: {error.strerror or error}")
            return []

    def _add(self, announced: Announcement) -> None:
        self.domains.update(dict.fromkeys(announced.domains))
        self.servers.update(dict.fromkeys(announced.servers))

    def _add_found(self, announced: Announcement) -> None:
        self.found = True
        self._add(announced)


def find_advertising_routers(index: int) -> tuple[tuple[str, ...], str]:
    """Return the IPv6 routers of a link that advertise themselves, and the link's MAC address.

    No routers if the kernel can't be asked.
    """
    from netconf_hooks.system.netlink import AF_INET6, Netlink, NetlinkError

    try:
        with Netlink() as netlink:
            route = netlink.get_default_route(index, AF_INET6)
            if route is None or not route.advertised:
                return (), ""
            status = netlink.get_link(index)
    except NetlinkError:
        return (), ""
    return (route.routers, status.address) if status and status.carrier else ((), "")


def find_addresses(device: str) -> tuple[str, ...]:
    """Return the addresses that `device` has now, as inet_ntop(3) writes them.  Raises `NetlinkError`."""
    from netconf_hooks.evidence.address import list_addresses

    return list_addresses(device)


def list_devices(directory: str) -> list[tuple[str, int, bool]]:
    """Return name, flags (IFF_*, netdevice(7)) and carrier of the network devices; none if they can't be listed.

    directory: /sys/class/net, or one like it.
    """
    devices = []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in sorted(names):
        try:
            flags = int(read_end(f"{directory}/{name}/flags"), 16)
        except (OSError, ValueError):
            continue  # it went away, or is no device (bonding_masters)
        try:
            carrier = read_end(f"{directory}/{name}/carrier").strip() == "1"
        except OSError:
            carrier = False  # EINVAL: it is not set up
        devices.append((name, flags, carrier))
    return devices


def read_dhclient_lease(lease: Lease) -> Announcement:
    """Return the domains and resolvers in a lease of dhclient."""
    return _make_announcement(lease.domains, lease.servers)


def parse_resolver_record(text: str) -> Announcement:
    """Return the values in the ``domain``, ``search`` and ``nameserver`` lines of a record like resolv.conf(5)."""
    domains: list[str] = []
    servers: list[str] = []
    for line in text.split("\n"):
        words = _list_words(line)
        if not words or len(servers) + len(domains) > 2 * MOST:
            continue
        if words[0] in ("domain", "search"):
            domains += words[1:]
        elif words[0] == "nameserver":
            servers += words[1:2]
    return _make_announcement(domains, servers)


def is_written_by_udhcpc(text: str) -> bool:
    """Return whether a resolv.conf has only lines that the default.script of Debian's udhcpc writes."""
    lines = (line.split() for line in text.split("\n"))
    return all(words[0] in ("domain", "search", "nameserver") for words in lines if words)


def parse_settings(text: str) -> dict[str, str]:
    """Return the ``KEY=VALUE`` lines of one of systemd's records, or of the output of ``dhcpcd -U``."""
    settings = {}
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            settings[key.strip()] = value.strip().strip('"')
    return settings


def read_networkd_link(settings: dict[str, str]) -> Announcement:
    """Return the values in systemd-networkd's record of a link, /run/systemd/netif/links/IFINDEX."""
    domains = settings.get("DOMAINS", "").split() + settings.get("ROUTE_DOMAINS", "").split()
    return _make_announcement(domains, settings.get("DNS", "").split())


def read_networkd_lease(settings: dict[str, str]) -> Announcement:
    """Return the values in systemd-networkd's DHCPv4 lease, /run/systemd/netif/leases/IFINDEX.

    The record of the link leaves the domains out unless UseDomains= is set, systemd.network(5).
    """
    domains = settings.get("DOMAINNAME", "").split() + settings.get("DOMAIN_SEARCH_LIST", "").split()
    return _make_announcement(domains, settings.get("DNS", "").split())


def parse_resolvectl(output: str, device: str) -> list[str]:
    """Return the words that ``resolvectl dns`` or ``resolvectl domain`` shows for a link: ``Link 2 (eth0): WORD...``.

    Indented lines belong to the link above: resolvectl wraps lines at the terminal's width.
    """
    return output.partition(f" ({device}):")[2].split()


def parse_dhcpcd_dump(text: str) -> Announcement:
    """Return the values in the leases and router advertisements that ``dhcpcd -U IFACE`` prints, dhcpcd(8).

    Those of DHCPv6 begin with ``dhcp6_``, those of the first router with ``nd1_`` (``nd1_rdnss1_servers``).
    """
    domains: list[str] = []
    servers: list[str] = []
    for key, value in parse_settings(text).items():
        words = value.strip("'").split(" ")
        router, _, option = key.partition("_")
        if key in ("domain_name", "domain_search", "dhcp6_domain_search"):
            domains += words
        elif key in ("domain_name_servers", "dhcp6_name_servers"):
            servers += words
        elif router[:2] == "nd" and router[2:].isdecimal():
            kind, _, what = option.partition("_")
            domains += words if (kind.rstrip("0123456789"), what) == ("dnssl", "search") else []
            servers += words if (kind.rstrip("0123456789"), what) == ("rdnss", "servers") else []
    return _make_announcement(domains, servers)


def _make_announcement(domains: Iterable[str], servers: Iterable[str]) -> Announcement:
    """Return the valid domains and addresses: each once, and at most `MOST` of a kind."""
    words = (word for value in domains for word in split_domains(value))
    names = dict.fromkeys(name for name in map(_read_domain, words) if name)
    addresses = dict.fromkeys(address for address in map(_read_server, servers) if address)
    return Announcement(tuple(names)[:MOST], tuple(addresses)[:MOST])


def split_domains(value: str) -> list[str]:
    """Return the domains in a value of DHCP option 15.

    RFC 2132 3.17 has one domain there.  But servers, Windows' among them, also send several with commas or blanks
    between them, and a NUL at the end, which some clients write as ``\\000``.
    """
    words = []
    for word in value.replace(",", " ").split():
        while word.endswith(("\0", "\\000")):
            word = word.removesuffix("\0").removesuffix("\\000")
        words.append(word)
    return words


def _list_words(line: str) -> list[str]:
    """Return the words of a line up to a comment."""
    words = []
    for word in line.split():
        if word[0] in "#;":
            break
        words.append(word)
    return words


def _read_domain(word: str) -> str:
    """Return a domain in lower case without its final dot; empty if it is not valid.

    RFC 1035 2.3.4 (lengths), RFC 1123 2.1 (a digit may come first); real domains also have underscores.  systemd's
    ``~`` marks a domain that is only for routing queries, not for searching, resolved.conf(5); ``~.`` is no domain.
    """
    if not word.isascii() or len(word) > 255:
        return ""
    name = word.lower()
    if name[:1] == "~":
        name = name[1:]
    if name[-1:] == ".":
        name = name[:-1]
    if not 0 < len(name) <= 253:
        return ""
    for label in name.split("."):
        if not (0 < len(label) < 64 and _LABEL.issuperset(label)) or label[0] == "-" or label[-1] == "-":
            return ""
    return name


def _read_server(word: str) -> str:
    """Return the address of a resolver; empty if it is not valid, or is one that no link can announce.

    Forms: ``192.0.2.1``, ``fe80::1%eth0``, systemd's ``192.0.2.1:53%2#name`` and ``[2001:db8::1]:53#name``
    (systemd-resolved(8), resolved.conf(5)).  A loopback address is this host's own resolver: systemd's 127.0.0.53.
    """
    word = word.partition("#")[0].partition("%")[0]
    if word[:1] == "[":
        word = word[1:].partition("]")[0]
    elif word.count(":") == 1:
        word = word.partition(":")[0]
    address = read_address(word)
    if address.startswith("127.") or address in ("0.0.0.0", "::", "::1"):
        return ""
    return address
