"""The kill switch of a link, from its first pre-up to its last post-down.  Only `firewall` touches the firewall."""
