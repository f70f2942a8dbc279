"""netconf-hooks: recognises the network, and starts the tunnels that should run there.

For an admin's own programs, netconf-hooks(8), PYTHON LIBRARY::

    import netconf_hooks

    if netconf_hooks.locate("eth0").location == "office": ...
    if "corp.example.com" in netconf_hooks.observe("eth0").list_values("dns-domain"): ...

They are in `netconf_hooks.api`.  Everything else in this package may change with any version.
"""

from __future__ import annotations

__all__ = ["NetworkError", "locate", "observe"]


def __getattr__(name: str) -> object:
    """Import the library on first use (PEP 562), since every ifup imports this package."""
    if name in __all__:
        from netconf_hooks import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
