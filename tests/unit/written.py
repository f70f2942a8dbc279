"""Random values of tests, as they are written and as they are seen."""

from hypothesis import strategies as st

from netconf_hooks.stanzas import values
from netconf_hooks.stanzas.rules import TESTS

macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
addresses = st.ip_addresses().map(lambda address: values.read_address(str(address)))
networks = st.builds(lambda address, part: f"{address}/{part * address.max_prefixlen // 16}", st.ip_addresses(),
                     st.integers(0, 16)).map(values.read_network)  # fmt: skip
hosts = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,5}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,5}[a-z])?){1,2}", fullmatch=True)
services = st.builds(lambda host, port: f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                     st.one_of(hosts, addresses), st.integers(1, 65535))  # fmt: skip
free_text = st.text(st.characters(blacklist_characters="\n\0", blacklist_categories=["Cs"]), min_size=1)
VALUES_OF = {
    values.MAC: macs,
    values.ADDRESS: addresses,
    values.NETWORK: networks,
    values.DOMAIN: st.one_of(hosts, hosts.map(lambda host: f"*.{host}")),
    values.NUMBER: st.integers(1, 10**9 - 1).map(str),
    values.PATTERN: st.text(st.sampled_from("eth0*?[],'\"\\!:#="), min_size=1),
    values.SWITCH: st.sampled_from(["yes", "no"]),
    values.PEER: st.one_of(addresses, st.builds(lambda address, mac: f"{address}/{mac}", addresses, macs)),
    values.SSID: st.binary(min_size=1, max_size=32).map(values.format_ssid),
    values.SERVICE: services,
    values.CERTIFICATE: st.builds(
        lambda service, digits: f"{service}/sha256:{digits.hex()}", services, st.binary(min_size=32, max_size=32)
    ),
    values.PATH: free_text.map(lambda text: f"/{text}").filter(lambda text: text[-1] != "/"),
}  # fmt: skip


def list_written(key):
    """Return the values that a test may have, normalised."""
    syntax = TESTS[key].syntax
    assert syntax in VALUES_OF, f"tests/unit/written.py: VALUES_OF has no values for {key}=, {syntax.expected}"
    return VALUES_OF[syntax]


def list_seen(key):
    """Return the values that may be seen for a test."""
    return addresses if TESTS[key].syntax is values.NETWORK else list_written(key)
