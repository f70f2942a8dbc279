"""How many examples hypothesis makes: `make soak` many, `make test` some, `make test-unit`, which a person waits for,
a few."""

import os

from hypothesis import HealthCheck, settings

MANY = int(os.environ.get("NETCONF_EXAMPLES", "300"))
"""Of what may come from anywhere: a lease, a netlink message, a name in the air."""

# Continuous integration (NETCONF_REPEATABLE) makes the same examples each time, so that a change does not fail by an
# example that has nothing to do with it.  Everybody else makes new ones.
# Of everything else; 100 is hypothesis's own number.  No test may fail because the machine is busy.
settings.register_profile(
    "all",
    max_examples=min(100, MANY),
    deadline=None,
    derandomize="NETCONF_REPEATABLE" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("all")
