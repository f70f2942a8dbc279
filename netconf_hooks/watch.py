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
from netconf_hooks.apply import end_passes, list_counting, refresh_interfaces
from netconf_hooks.ifenv import device_of
from netconf_hooks.observe.netlink import LINKS, NEIGHBOURS, Netlink, NetlinkError
from netconf_hooks.observe.scene import NO_ADDRESS, Scene, look_at
from netconf_hooks.passes import read_rules_of
from netconf_hooks.state import RecordError
from netconf_hooks.tunnels import TunnelError, load_tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from netconf_hooks.state import InterfaceRecord, Store

# Multicast groups (enum rtnetlink_groups) beside LINKS and NEIGHBOURS.
_IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES = 5, 7, 9, 11
GROUPS = (LINKS, NEIGHBOURS, _IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES)

# linux/netlink.h; of its groups (enum nfnetlink_groups) the one that tells of changed rules.
NETLINK_NETFILTER, _NFTABLES = 12, 7

# Seconds.  News come in bursts, a link that comes up sends a dozen: they are over when it was quiet for so long...
QUIET = 0.1
# ... or when the burst has lasted for so long.
BURST = 1.0

# After how many seconds to ask again while something is open, and then each time the last.
PAUSES = (5.0, 15.0, 30.0, 60.0)


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
    with Netlink(GROUPS) as news, Netlink((_NFTABLES,), NETLINK_NETFILTER) as firewall:
        sleeper = _Sleeper(news, firewall, fifo, lambda: shut_lost(store))
        must = orphaned
        expired = False
        scenes: dict[str, Scene] = {}
        pauses = iter(PAUSES)
        pause = 0.0
        alarm: float | None = None
        # The lease of what was open may have ended since.
        renewal = monotonic() if orphaned else None
        while True:
            end_passes(store)
            with store.lock_records():
                records = store.read_interfaces(log.error)
                if not records and not store.has_guards():
                    # All of it while the records are held: who adds one after this finds nobody, and starts another.
                    _tell_leaving(os.environ.get("NOTIFY_SOCKET", ""))
                    os.unlink(store.fifo)
                    os.close(fifo)
                    lock.release()
                    return
            renewal, lost = _look_after_guards(store, renewal)
            must = must or lost
            seen = look(records)
            if must or any(_has_changed(seen[record.iface], scenes, record) for record in records if not record.wish):
                if not expired:
                    why = "nobody watched" if must else "the network has changed"
                    why = "a guard was taken away" if lost else why
                    log.info(f"deciding again: {why}")
                _refresh(store, records)
                records = store.read_interfaces(log.error)
                # What has changed since the look that was decided on shows at the next turn.
                renewal, _ = _look_after_guards(store, renewal)
                alarm = None
                if not expired:
                    pauses = iter(PAUSES)
            scenes = {
                iface: scene.complete(scenes[iface]) if iface in scenes else scene for iface, scene in seen.items()
            }
            if alarm is None and is_open(store, records):
                pause = next(pauses, pause)
                alarm = monotonic() + pause
            some = sleeper.sleep(min((when for when in (alarm, renewal) if when is not None), default=None))
            must = expired = not some and alarm is not None and monotonic() >= alarm
            # Not put off by news, however many: a lease that nobody renews ends.
            if renewal is not None and monotonic() >= renewal:
                renewal = None
                must = not _renew(store) or must


def look(records: Iterable[InterfaceRecord]) -> dict[str, Scene]:
    """Return how the networks of `records` look now, by interface.  Raises `NetlinkError`."""
    with Netlink() as netlink:
        return {
            record.iface: look_at(
                device_of(record.iface), netlink, read_rules_of(record.passes).outside_ports
            )
            for record in records
            if not record.wish
        }


def is_open(store: Store, records: Iterable[InterfaceRecord]) -> bool:
    """Whether asking again may help: a location is undecided, something could not be done, a wanted tunnel is down."""
    counting = list_counting(records)
    if any(record.undecided for record in counting):
        return True
    for guard in store.read_guards(log.error):
        if not guard.done or any(
            device_of(record.iface) == guard.device and record.looked <= guard.shut for record in counting
        ):
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


def _has_changed(scene: Scene, scenes: Mapping[str, Scene], record: InterfaceRecord) -> bool:
    """Whether the network of an interface is not the one that was seen before; at first sight, by its record."""
    if record.iface in scenes:
        return not scene.is_like(scenes[record.iface])
    # Between the hook's look and ours the cable may have been pulled, or a router have announced itself.
    recorded = {finding.subject: finding.values for finding in record.seen}
    routers = tuple(router for router in scene.routers if router != NO_ADDRESS)
    return not (
        scene.carrier
        and scene.index == record.index
        and bool(scene.routers) == record.routable
        and sorted(recorded.get("gateway", routers)) == sorted(routers)
    )


# --- guards


def shut_lost(store: Store) -> None:
    """Shut each open guard whose link is not on the network any more for which it was opened: at the first news, before
    anything else."""
    if not store.has_guards():
        return
    from netconf_hooks.guard_records import restore_records
    from netconf_hooks.guarding import shut_lost_guards

    try:
        restore_records(store)
        shut_lost_guards(store)
    except (NetlinkError, OSError) as error:
        log.error(f"watch: {error}")


def _look_after_guards(store: Store, renewal: float | None) -> tuple[float | None, bool]:
    """Put back what somebody took away; return when the lease of an open link is to be renewed, time.monotonic(), and
    whether a link is closed now that should be open.

    renewal: when a lease was to be renewed already.
    """
    if not store.has_guards():
        return None, False
    from netconf_hooks.guard_records import restore_records
    from netconf_hooks.guarding import RENEWAL, is_any_open, put_back

    try:
        restored = restore_records(store)
        lost = put_back(store) or bool(restored)
        if not is_any_open(store):
            return None, lost
        return monotonic() + RENEWAL if renewal is None else renewal, lost
    except (NetlinkError, OSError) as error:
        log.error(f"watch: {error}")
        return monotonic() + RENEWAL if renewal is None else renewal, False


def _renew(store: Store) -> bool:
    """Renew the leases of open links; return False where one had to be shut instead."""
    if not store.has_guards():
        return True
    from netconf_hooks.guarding import renew_guards

    try:
        return renew_guards(store)
    except (NetlinkError, OSError) as error:
        log.error(f"watch: {error}")
        return False


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


class _Sleeper:
    """Sleeps until there are news.

    news: of the network; firewall: of changed rules; fifo: of changed records; hasten: what is done at each piece of
    news, before the burst of them is over.
    """

    def __init__(self, news: Netlink, firewall: Netlink, fifo: int, hasten: Callable[[], None]) -> None:
        self._news = news
        self._firewall = firewall
        self._fifo = fifo
        self._hasten = hasten
        self._poll = select.poll()
        for descriptor in (news.fileno(), firewall.fileno(), fifo):
            self._poll.register(descriptor, select.POLLIN)

    def sleep(self, alarm: float | None) -> bool:
        """Sleep until there are news and the burst of them is over, or until `alarm`; return whether there were any."""
        if not self._poll.poll(None if alarm is None else max(0.0, alarm - monotonic()) * 1000):
            return False
        over = monotonic() + BURST
        self._hasten()
        while self._drain() and monotonic() < over:
            time.sleep(QUIET)  # not in poll(2): each message of the burst would wake us
            self._hasten()
        return True

    def _drain(self) -> bool:
        """Take all news that have come; return whether there were any."""
        some = False
        try:
            while os.read(self._fifo, 4096):
                some = True
        except BlockingIOError:
            pass
        return any([self._news.drain(), self._firewall.drain(), some])


def _refresh(store: Store, records: Iterable[InterfaceRecord]) -> None:
    try:
        refresh_interfaces(store, records)
    except (NetlinkError, RecordError, OSError) as error:
        log.error(f"watch: {error}")
