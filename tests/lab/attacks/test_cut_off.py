"""Many ifdowns at once, each cut off by its deadline: whoever comes next clears up what they have left."""

from __future__ import annotations

import pytest

from ..guarded import TABLES
from ..lab import Lab
from ..laptop import DHCP_CLIENTS
from ..stanzas import find_records, read_status
from ..waiting import wait_until
from .scene import SOAK

# Fifty take a minute and a half on a busy machine.
COUNT = 50 if SOAK else 15
HOOK = "/usr/lib/python3/dist-packages/netconf_hooks/hook.py"
_STANZA = """
iface {name} inet static
    address 10.50.{number}.1/24
    netconf-location nowhere  address=192.0.2.0/24
    netconf-guard unless nowhere
    netconf-guard-backend nftables
"""


@pytest.mark.parametrize("dhcp_client", DHCP_CLIENTS[:1])
def test_many_ifdowns_cut_off_by_their_deadline(lab: Lab) -> None:
    """Somebody holds the lock for acting until all of them have ended."""
    laptop = lab.laptop
    names = [f"g{number}" for number in range(COUNT)]
    pairs = "".join(f"link add {name} type veth peer name p{name}\nlink set p{name} up\n" for name in names)
    laptop.run(["ip", "-batch", "-"], text=pairs)
    stanzas = "".join(_STANZA.format(name=name, number=number) for number, name in enumerate(names))
    laptop.write("/etc/network/interfaces", f"auto lo\niface lo inet loopback\n{stanzas}")
    laptop.ifup(*names, timeout=580)
    assert set(read_status(lab)["guards"]) == set(names)
    # From now on a hook has a second, and not 20.
    text = laptop.read(HOOK)
    assert "\nACTING_TIME = 20\n" in text
    laptop.write(HOOK, text.replace("\nACTING_TIME = 20\n", "\nACTING_TIME = 1\n"))
    laptop.run(["mkfifo", "/run/gate"])
    lock = "flock /run/netconf-hooks/acting.lock sh -c '>/run/held; read line </run/gate'"
    holder = laptop.start(["sh", "-c", lock])
    wait_until(lambda: laptop.exists("/run/held"), "the lock to be held")
    laptop.run(["xargs", "-P", str(COUNT), "-n", "1", "ifdown"], text="\n".join(names), timeout=580)
    assert "up" not in laptop.run(["ifquery", "--state", *names], check=False).stdout
    log = laptop.log()
    for name in names:
        assert f"{name}: the post-down hook ended before its work was done: it took too long" in log
    left = set(read_status(lab)["guards"])
    assert left == set(names), f"only {len(left)} guards are left: the deadlines were not what ended the hooks"
    laptop.run(["sh", "-c", "echo go >/run/gate"])
    assert holder.wait().returncode == 0
    wait_until(lambda: not read_status(lab)["guards"], "the guards to be taken away", 300)
    wait_until(lambda: not find_records(lab), "the records to be removed", 300)
    listed = laptop.run(["nft", "list", "tables"]).stdout
    assert not any(table in listed for table in TABLES), listed
    wait_until(lambda: not any("netconf-hooks" in line for line in laptop.processes().values()), "the watcher to leave")
