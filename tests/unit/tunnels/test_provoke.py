"""Which addresses are asked for an answer through a tunnel."""

from netconf_hooks.tunnels.provoke import find_network


def test_the_network_of_an_address():
    assert find_network("10.8.0.77", 24) == "10.8.0.0"
    assert find_network("10.8.0.77", 32) == "10.8.0.77"
    assert find_network("2001:db8::5:77", 64) == "2001:db8::"
