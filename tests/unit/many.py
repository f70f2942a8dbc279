"""How many examples hypothesis makes of what may come from anywhere: a lease, a netlink message, a name in the air."""

import os

MANY = int(os.environ.get("NETCONF_EXAMPLES", "1000"))
"""`make test` has them all; `make test-unit`, which a person waits for, a tenth."""
