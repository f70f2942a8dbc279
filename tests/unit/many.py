"""How many examples hypothesis makes: `make test` makes them all, `make test-unit`, which a person waits for, a few."""

import os

from hypothesis import HealthCheck, settings

MANY = int(os.environ.get("NETCONF_EXAMPLES", "1000"))
"""Of what may come from anywhere: a lease, a netlink message, a name in the air."""

# Of everything else; 100 is hypothesis's own number.  No test may fail because the machine is busy.
settings.register_profile(
    "all",
    max_examples=min(100, MANY),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("all")
