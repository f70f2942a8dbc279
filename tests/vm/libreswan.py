"""Runs in a machine with Debian's own kernel, which has ESP: Libreswan, at both ends, with packets through its tunnel.

The machine is the laptop, as in `guest`; the gateway's pluto lives in the VPN gateway's namespaces, with a /run of its
own.  The checks are one story and run in their order.
"""

from __future__ import annotations

import json
import sys
import time

from tests.lab import ipsec
from tests.lab.network import CAFE, CORP_HOST, VPN_GATEWAY, Network
from tests.lab.waiting import wait_until
from tests.vm.checks import Check, run_checks
from tests.vm.guest import PATIENT, Guest

UNIT = "ipsec.service"
PLACE = "/run/vpn"  # the gateway's files: /etc is the laptop's
CLIENTS = "10.9.0."
GATEWAY_CONF = f"""\
conn gateway
  ikev2=insist
  authby=secret
  left={VPN_GATEWAY}
  leftid=@vpn.example
  leftsubnet={ipsec.NETWORK}
  leftmodecfgserver=yes
  right=%any
  rightid=@laptop.example
  rightmodecfgclient=yes
  rightaddresspool={CLIENTS}1-{CLIENTS}254
  narrowing=yes
  auto=add
"""


def start_gateway(network: Network) -> None:
    """Start the gateway's pluto and return when it listens."""
    network.write(f"{PLACE}/ipsec.conf", GATEWAY_CONF)
    network.write(f"{PLACE}/ipsec.secrets", f'@vpn.example @laptop.example : PSK "{ipsec.SECRET}"\n')
    network.run("vpn", ["mkdir", "-p", f"{PLACE}/nss", "/run/pluto"])
    network.run("vpn", ["ipsec", "initnss", "--nssdir", f"{PLACE}/nss"], timeout=PATIENT)
    files = [f"--{option}={PLACE}/{name}" for option, name in (
        ("config", "ipsec.conf"), ("secretsfile", "ipsec.secrets"), ("nssdir", "nss"), ("logfile", "pluto.log"),
    )]  # fmt: skip
    network.run("vpn", ["ipsec", "pluto", *files], timeout=PATIENT)
    status = ["ipsec", "whack", "--status"]
    load = ["ipsec", "addconn", "--config", f"{PLACE}/ipsec.conf", "gateway"]

    def listens() -> bool:
        if '"gateway"' in network.run("vpn", status, check=False).stdout:
            return True
        network.run("vpn", load, check=False)
        return False

    wait_until(listens, "the gateway to listen", PATIENT)


def main_pid(guest: Guest) -> str:
    """Return the pid of the laptop's pluto, as systemd knows it."""
    return guest.run(["systemctl", "show", "--property=MainPID", "--value", UNIT]).stdout.strip()


def count_bytes(guest: Guest) -> list[int]:
    """Return how many bytes each of the kernel's associations has carried, the least first."""
    return sorted(size for _, size in guest.read_associations())


def libreswan_comes_with_ifup(guest: Guest) -> None:
    guest.run(["systemctl", "stop", UNIT])
    assert guest.read_associations() == []
    guest.arrive(CAFE.name)
    guest.wait_for_corp()
    assert guest.unit(UNIT) == "active"
    assert guest.status(f"ipsec {ipsec.NAME}")["up"] is True


def libreswans_packets_are_the_kernels(guest: Guest) -> None:
    assert [kind for kind, _ in guest.read_associations()] == ["esp", "esp"], "one each way"
    shown = guest.run(["ip", "xfrm", "policy"]).stdout
    assert f"src {CLIENTS}1/32 dst {ipsec.NETWORK}" in shown, shown
    before = count_bytes(guest)
    sent = guest.run(["ping", "-n", "-q", "-i", "0.2", "-c", "5", "-W", "5", CORP_HOST]).stdout
    after = count_bytes(guest)
    print(f"# {sent.splitlines()[-2]}; bytes carried: {before}, then {after}")
    assert all(late >= early + 5 * 84 for early, late in zip(before, after, strict=True)), (before, after)


def libreswan_goes_on_from_another_address(guest: Guest) -> None:
    """pluto itself would keep the address that the machine no longer has."""
    before = guest.run(["ip", "-json", "-4", "address", "show", "dev", "eth0"]).stdout
    (old,) = json.loads(before)[0]["addr_info"]
    new = f"{CAFE.router.rpartition('.')[0]}.99"
    began = time.monotonic()
    guest.run(["ip", "address", "del", f"{old['local']}/{old['prefixlen']}", "dev", "eth0"])
    guest.run(["ip", "address", "add", f"{new}/24", "dev", "eth0"])
    guest.run(["ip", "route", "replace", "default", "via", CAFE.router, "dev", "eth0", "src", new])
    wait_until(lambda: f"src {new} dst {VPN_GATEWAY}" in guest.run(["ip", "xfrm", "state"]).stdout,
               "the tunnel to use the new address", PATIENT)  # fmt: skip
    guest.wait_for_corp()
    print(f"# libreswan, another address -> back after {time.monotonic() - began:.1f} s")
    assert guest.unit(UNIT) == "active"


def libreswan_goes_with_ifdown(guest: Guest) -> None:
    pid = main_pid(guest)
    assert guest.read_associations() != []
    guest.leave()
    wait_until(lambda: guest.read_associations() == [], "the associations to go", PATIENT)
    assert guest.run(["ip", "xfrm", "policy"]).stdout.count(f"dst {ipsec.NETWORK}") == 0
    assert not guest.pings(CORP_HOST)
    assert (guest.unit(UNIT), main_pid(guest)) == ("active", pid), "the daemon is left running"


CHECKS: list[Check[Guest]] = [
    libreswan_comes_with_ifup,
    libreswans_packets_are_the_kernels,
    libreswan_goes_on_from_another_address,
    libreswan_goes_with_ifdown,
]


def main() -> int:
    """Run all checks in this machine, and return whether all went well."""
    with Network((CAFE,), ("eth0",)) as network:
        guest = Guest(network)
        guest.configure(f"ipsec {ipsec.NAME} unless office-lan")
        ipsec.write_libreswan(guest)
        start_gateway(network)
        return run_checks(CHECKS, guest)


if __name__ == "__main__":
    sys.exit(main())
