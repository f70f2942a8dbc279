"""netconf-hooks: which network is this, and which tunnels should run there."""
