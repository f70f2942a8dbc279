"""What happens between ifup and ifdown: cables move, leases change, laptops sleep, and no hook runs.

``netconf-hooks watch`` is one small process that exists only while there is a record.  It sleeps in poll(2) on the
kernel's news of links, addresses, routes and neighbours.  News only wake it: what counts is whether the networks still
look as they did, by the kernel's own tables, so a burst of a thousand route changes costs one look.  If they do not, it
does what
``netconf-hooks refresh`` does, by the same code.  While something is undecided, or a wanted tunnel is down, it also
does so by timer.  What only DHCP clients know, a new domain, their hooks tell by ``refresh``.
"""

from __future__ import annotations

import _socket
import os
import select
import time
from time import monotonic

from netconf_hooks import log
from netconf_hooks.apply import list_counting, refresh_interfaces
from netconf_hooks.ifenv import device_of
from netconf_hooks.observe.address import list_addresses
from netconf_hooks.observe.netlink import AF_INET, AF_INET6, LINKS, NEIGHBOURS, Netlink, NetlinkError
from netconf_hooks.observe.wireless import is_wireless, read_network
from netconf_hooks.record import Record
from netconf_hooks.state import RecordError
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from netconf_hooks.observe.wireless import WirelessNetwork
    from netconf_hooks.state import InterfaceRecord, Store

# Multicast groups (enum rtnetlink_groups) beside LINKS and NEIGHBOURS.
_IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES = 5, 7, 9, 11
GROUPS = (LINKS, NEIGHBOURS, _IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES)

# Seconds.  News come in bursts, a link that comes up sends a dozen: they are over when it was quiet for so long...
QUIET = 0.1
# ... or when the burst has lasted for so long.
BURST = 1.0

# After how many seconds to ask again while something is open, and then each time the last.
PAUSES = (5.0, 15.0, 30.0, 60.0)


class View(Record):
    """How the network of one interface looks in the kernel's tables.

    index: of its device, 0 where there is none; carrier: whether it is plugged in; addresses: its own; routers: its
    default routers; macs: of those routers, as far as they are known; wireless: the wireless network it is on.
    """

    __slots__ = ("index", "carrier", "addresses", "routers", "macs", "wireless")

    def __init__(
        self,
        index: int,
        carrier: bool,
        addresses: tuple[str, ...],
        routers: tuple[str, ...],
        macs: dict[str, str],
        wireless: WirelessNetwork | None = None,
    ) -> None:
        self.index = index
        self.carrier = carrier
        self.addresses = addresses
        self.routers = routers
        self.macs = macs
        self.wireless = wireless

    def is_like(self, other: View) -> bool:
        """Whether this is the same network: a router whose MAC address is not known at the moment is the same one."""
        return (
            (self.index, self.carrier, self.addresses, self.routers, self.wireless)
            == (other.index, other.carrier, other.addresses, other.routers, other.wireless)
            and all(other.macs.get(router, mac) == mac for router, mac in self.macs.items())
        )  # fmt: skip


def watch(store: Store) -> None:
    """Watch until there is no record any more; returns at once where there is none, or another watcher.

    Raises OSError, and `NetlinkError` where the kernel's news can't be had.
    """
    store.prepare()
    lock = store.lock_watcher()
    if not lock.take():
        log.debug("another watcher runs")
        return
    # One that was killed did not take its FIFO with it: what happened since then nobody saw.
    orphaned = os.path.exists(store.fifo)
    if not orphaned:
        os.mkfifo(store.fifo, 0o600)
    # For reading and writing, fifo(7): so it is never at its end, and never without a reader.
    fifo = os.open(store.fifo, os.O_RDWR | os.O_NONBLOCK)
    with Netlink(GROUPS) as news:
        wait = _make_sleeper(news, fifo)
        must = orphaned
        expired = False
        views: dict[str, View] = {}
        pauses = iter(PAUSES)
        pause = 0.0
        alarm: float | None = None
        while True:
            with store.lock_records():
                records = store.read_interfaces(log.error)
                if not records:
                    # All of it while the records are held: who adds one after this finds nobody, and starts another.
                    _tell_leaving(os.environ.get("NOTIFY_SOCKET", ""))
                    os.unlink(store.fifo)
                    os.close(fifo)
                    lock.release()
                    return
            seen = look(records)
            if must or any(_has_changed(seen[record.iface], views, record) for record in records if not record.wish):
                if not expired:
                    log.info("deciding again: nobody watched" if must else "deciding again: the network has changed")
                _refresh(store, records)
                records = store.read_interfaces(log.error)
                seen = look(records)
                alarm = None
                if not expired:
                    pauses = iter(PAUSES)
            views = {iface: _merge(view, views.get(iface)) for iface, view in seen.items()}
            if alarm is None and is_open(store, records):
                pause = next(pauses, pause)
                alarm = monotonic() + pause
            must = expired = not wait(alarm)


def look(records: Iterable[InterfaceRecord]) -> dict[str, View]:
    """Return how the networks of `records` look now, by interface.  Raises `NetlinkError`."""
    views = {}
    with Netlink() as netlink:
        for record in records:
            if record.wish:
                continue
            device = device_of(record.iface)
            link = netlink.get_link(device)
            if link is None:
                views[record.iface] = View(0, False, (), (), {})
                continue
            routes = [netlink.get_default_route(link.index, family) for family in (AF_INET, AF_INET6)]
            routers = tuple(sorted(router for route in routes if route for router in route.routers))
            known = netlink.get_known_neighbours(link.index, routers)
            macs = {router: neighbour.mac for router, neighbour in known.items() if neighbour.mac}
            # A default route without a router (ppp) is one, too.
            if any(route is not None and not route.routers for route in routes):
                routers += ("",)
            views[record.iface] = View(
                link.index, link.carrier, tuple(sorted(list_addresses(device))), routers, macs, _read_wireless(device)
            )
    return views


def is_open(store: Store, records: Iterable[InterfaceRecord]) -> bool:
    """Whether asking again may help: a location is undecided, something could not be done, a wanted tunnel is down."""
    if any(record.undecided for record in list_counting(records)):
        return True
    for (kind, name), tunnel in store.read_tunnels().items():
        if not tunnel.done:
            return True
        if tunnel.verdict == "up":
            try:
                if load_tunnel(kind, name).is_up() is False:
                    return True
            except TunnelError:
                return True
    return False


def _has_changed(view: View, views: Mapping[str, View], record: InterfaceRecord) -> bool:
    """Whether the network of an interface is not the one that was seen before; at first sight, by its record."""
    if record.iface in views:
        return not view.is_like(views[record.iface])
    # Between the hook's look and ours the cable may have been pulled, or a router have announced itself.
    recorded = {finding.subject: finding.values for finding in record.seen}
    routers = tuple(router for router in view.routers if router)
    return not (
        view.carrier
        and view.index == record.index
        and bool(view.routers) == record.routable
        and sorted(recorded.get("gateway", routers)) == sorted(routers)
    )


def _merge(view: View, before: View | None) -> View:
    # What was known of the same routers stays known while the kernel has forgotten it.
    macs = {router: mac for router, mac in (before.macs if before else {}).items() if router in view.routers}
    return View(view.index, view.carrier, view.addresses, view.routers, {**macs, **view.macs}, view.wireless)


def _read_wireless(device: str) -> WirelessNetwork | None:
    if not is_wireless(device):
        return None
    try:
        return read_network(device)
    except NetlinkError as error:
        log.debug(f"{device}: nl80211: {error}")
        return None


def _tell_leaving(address: str) -> None:
    """Tell systemd, sd_notify(3), that this service is about to end: whoever asks for it now gets another process, and
    not this one for the moment that it still takes.

    address: of systemd's socket, empty where there is none.
    """
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address  # unix(7), abstract
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        channel.sendto(b"STOPPING=1", name)
    except OSError as error:
        log.error(f"{address}: {error.strerror}: systemd is not told that the watcher ends")
    finally:
        channel.close()


def _make_sleeper(news: Netlink, fifo: int) -> Callable[[float | None], bool]:
    poll = select.poll()
    poll.register(news.fileno(), select.POLLIN)
    poll.register(fifo, select.POLLIN)

    def sleep(alarm: float | None) -> bool:
        """Sleep until there are news and the burst of them is over, or until `alarm`; return whether there were any."""
        if not poll.poll(None if alarm is None else max(0.0, alarm - monotonic()) * 1000):
            return False
        over = monotonic() + BURST
        while _drain(news, fifo) and monotonic() < over:
            time.sleep(QUIET)  # not in poll(2): each message of the burst would wake us
        return True

    return sleep


def _drain(news: Netlink, fifo: int) -> bool:
    """Take all news that have come; return whether there were any."""
    some = False
    try:
        while os.read(fifo, 4096):
            some = True
    except BlockingIOError:
        pass
    return news.drain() or some


def _refresh(store: Store, records: Iterable[InterfaceRecord]) -> None:
    try:
        refresh_interfaces(store, records)
    except (NetlinkError, RecordError, OSError) as error:
        log.error(f"watch: {error}")
