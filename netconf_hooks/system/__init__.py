"""Everything that touches the machine: programs, systemd, netlink, the log, paths.  Tests replace it in one place."""
