"""The machine: what the library needs of it.  Nothing in here knows of rules, tunnels or guards."""
