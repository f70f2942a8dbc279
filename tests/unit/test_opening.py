"""A link is opened in an order that leaves nothing open that nobody knows of."""

import time

from guarded import OFFICE, assert_open, ifup

from netconf_hooks.guard.records import LEASE


def test_an_opening_is_written_down_before_the_firewall_is_told(store, links, network, firewall):
    """A hook that is killed in between leaves a record that says: it may be open, until then."""
    network["gateway"] = OFFICE
    seen = []

    def watch(real):
        def ask(device, *arguments, **more):
            windows = [window for each in arguments for window in (each if isinstance(each, tuple) else (each,))]
            for window in windows:
                if getattr(window, "name", "") == "open":
                    record = store.read_guard(device)
                    seen.append((record.opened, record.lease_until, window.until))
            return real(device, *arguments, **more)

        return ask

    firewall.close, firewall.open_window = watch(firewall.close), watch(firewall.open_window)
    ifup(store, links)
    assert_open(store, firewall)
    assert seen
    for opened, lease, until in seen:
        assert opened
        assert abs(lease - until) < 1
        assert time.time() < until <= time.time() + LEASE
