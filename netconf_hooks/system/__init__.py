"""The machine behind one seam: programs, systemd, netlink, the log, paths.  Tests replace it in one place."""
