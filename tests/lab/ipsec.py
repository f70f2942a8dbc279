"""IPsec for the lab: a gateway in the VPN gateway's place, and the configurations of its clients.

This machine's kernel may lack ESP, so charon encrypts by itself at both ends (its plugin kernel-libipsec, which makes a
tun device ``ipsec0``); Libreswan has nothing of the kind.  No IPsec program is installed on the machine that the tests
run on: they are packages of the lab's machines (see `archive`).
"""

from __future__ import annotations

from typing import Protocol

from .closing import Closing
from .laptop import Image, Laptop
from .network import VPN_GATEWAY, Network
from .waiting import wait_until

NAME = "work"
NETWORK = "10.99.0.0/24"
SECRET = "0123456789abcdef0123456789abcdef"

# What there is to install.  The standard plugins: AES-GCM and X25519, without which both ends propose little.
_CHARON = ("libcharon-extra-plugins", "libstrongswan-standard-plugins")
STRONGSWAN = ("strongswan-swanctl", "strongswan-starter", "strongswan-charon", *_CHARON)
SWANCTL_ALONE = ("strongswan-swanctl", "charon-systemd", *_CHARON)
STARTER_ALONE = ("strongswan-starter", "strongswan-charon", *_CHARON)
LIBRESWAN = ("libreswan",)

SWANCTL_CONF = "/etc/swanctl/conf.d/work.conf"
IPSEC_CONF = "/etc/ipsec.conf"
LIBRESWAN_CONF = "/etc/ipsec.d/work.conf"
_USERLAND_ESP = "/etc/strongswan.d/charon/kernel-libipsec.conf"

GATEWAY_SWANCTL = f"""\
connections {{
  gateway {{
    version = 2
    local_addrs = {VPN_GATEWAY}
    pools = clients
    local {{
      auth = psk
      id = vpn.example
    }}
    remote {{
      auth = psk
    }}
    children {{
      corp {{
        local_ts = {NETWORK}
      }}
    }}
  }}
}}
pools {{
  clients {{
    addrs = 10.9.0.0/24
  }}
}}
secrets {{
  ike {{
    secret = {SECRET}
  }}
}}
"""

# One client's connection: {connection} and {children} are to be filled in.
_SWANCTL_CLIENT = """\
connections {{
  {connection} {{
    version = 2
    remote_addrs = {gateway}
    vips = 0.0.0.0
    local {{
      auth = psk
      id = laptop.example
    }}
    remote {{
      auth = psk
      id = vpn.example
    }}
    children {{
{children}
    }}
  }}
}}
secrets {{
  ike {{
    secret = {secret}
  }}
}}
"""

_STARTER_CLIENT = """\
config setup

conn %default
  keyexchange=ikev2
  left=%defaultroute
  leftid=laptop.example
  leftsourceip=%config
  leftauth=psk
  right={gateway}
  rightid=vpn.example
  rightauth=psk

conn {name}
  rightsubnet={network}
  auto={auto}
"""

_LIBRESWAN_CLIENT = """\
conn {name}
  ikev2=insist
  authby=secret
  left=%defaultroute
  leftid=@laptop.example
  leftmodecfgclient=yes
  leftsubnet=0.0.0.0/0
  narrowing=yes
  right={gateway}
  rightid=@vpn.example
  rightsubnet={network}
  auto={auto}
"""


class Machine(Protocol):
    """Anything that files can be written to: a `laptop.Laptop`, a `boot.Booted`."""

    def write(self, path: str, text: str, mode: int = ...) -> None:
        """Write a file."""


def write_swanctl(
    machine: Machine,
    connection: str = NAME,
    child: str = NAME,
    path: str = SWANCTL_CONF,
    gateway: str = VPN_GATEWAY,
    options: str = "",
) -> None:
    """Configure swanctl's client; options: more lines of the child."""
    children = f"      {child} {{\n        remote_ts = {NETWORK}\n{options}      }}"
    text = _SWANCTL_CLIENT.format(connection=connection, children=children, gateway=gateway, secret=SECRET)
    machine.write(path, text, 0o600)
    use_userland_esp(machine)


def write_starter(machine: Machine, name: str = NAME, auto: str = "add", gateway: str = VPN_GATEWAY) -> None:
    """Configure the client of strongSwan's ipsec(8)."""
    machine.write(IPSEC_CONF, _STARTER_CLIENT.format(name=name, auto=auto, gateway=gateway, network=NETWORK))
    machine.write("/etc/ipsec.secrets", f'laptop.example vpn.example : PSK "{SECRET}"\n', 0o600)
    use_userland_esp(machine)


def write_libreswan(machine: Machine, name: str = NAME, auto: str = "add", gateway: str = VPN_GATEWAY) -> None:
    """Configure Libreswan's client."""
    machine.write(LIBRESWAN_CONF, _LIBRESWAN_CLIENT.format(name=name, auto=auto, gateway=gateway, network=NETWORK))
    machine.write("/etc/ipsec.d/work.secrets", f'@laptop.example @vpn.example : PSK "{SECRET}"\n', 0o600)


def use_userland_esp(machine: Machine) -> None:
    """Have charon encrypt by itself, in place of the kernel."""
    machine.write(_USERLAND_ESP, "kernel-libipsec {\n  load = yes\n}\n")


class IpsecGateway(Closing):
    """strongSwan at the VPN gateway of `network`, a machine of its own; behind it is `network.CORP_HOST`.

    image: a disk with `STRONGSWAN` installed.
    """

    def __init__(self, network: Network, image: Image) -> None:
        self._machine = Laptop(network, image, place="vpn")
        try:
            self._machine.write("/etc/swanctl/conf.d/gateway.conf", GATEWAY_SWANCTL, 0o600)
            use_userland_esp(self._machine)
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the gateway, new or killed before; returns when it listens."""
        self._machine.run(["ipsec", "start"])
        load = ["swanctl", "--load-all", "--noprompt"]
        wait_until(lambda: self._machine.run(load, check=False).returncode == 0, "the IPsec gateway to listen")

    def kill(self) -> None:
        """End the gateway as a power failure would, without a word to its clients."""
        for pid, command in self._machine.processes().items():
            if "/ipsec/starter" in command or "/ipsec/charon" in command:
                self._machine.run(["kill", "-KILL", str(pid)], check=False)
        wait_until(lambda: not self._machine.processes(), "the IPsec gateway to end")
        self._machine.run(["sh", "-c", "rm -f /run/*.pid"])

    def list_clients(self) -> str:
        """Return what the gateway knows of its clients: the security associations."""
        return self._machine.run(["ipsec", "status"], check=False).stdout

    def log(self) -> str:
        """Return what the gateway has logged."""
        return self._machine.log()

    def close(self) -> None:
        """Switch the machine off."""
        self._machine.close()
