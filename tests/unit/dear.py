"""The modules that no ifup imports."""

# What costs milliseconds each, docs/performance.md; and what the path of every ifup can do without.
DEAR = {
    "re", "json", "typing", "enum", "dataclasses", "collections", "subprocess", "socket", "logging", "ipaddress",
    "pyroute2", "functools", "pathlib", "shlex", "argparse", "contextlib", "signal", "traceback", "threading", "random",
    "ssl", "dns", "ctypes", "netifaces",
}  # fmt: skip
