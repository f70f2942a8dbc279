"""netconf-hooks: which network is this, and which tunnels should run there.

For an admin's own programs, netconf-hooks(8), PYTHON LIBRARY::

    import netconf_hooks

    if netconf_hooks.locate("eth0").location == "office": ...
    if "corp.example.com" in netconf_hooks.observe("eth0").list_values("dns-domain"): ...

`locate` and `observe` are modules of this package as well, with what the hooks themselves are made of; called, they are
the functions of `netconf_hooks.questions`.  Whatever else is in here may change with any version.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
else:
    ModuleType = type(sys)  # importing types would cost every ifup

__all__ = ["NetworkError", "locate", "observe"]


class NetworkError(Exception):
    """What was asked can't be told; the message says why."""


class Function(ModuleType):
    """A module that is called as the function of its name in `netconf_hooks.questions`."""

    def __call__(self, *arguments: object, **options: object) -> object:
        from netconf_hooks import questions

        function = getattr(questions, self.__name__.rpartition(".")[2])
        return function(*arguments, **options)


class Package(ModuleType):
    """This package: makes functions of the modules in `_FUNCTIONS`, whoever imports them first.

    The import system sets a module as an attribute of its package, in place of whatever had that name there; classes of
    modules are made for such cases (The Python Language Reference, 3.3.2.1).
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FUNCTIONS and isinstance(value, ModuleType):
            value.__class__ = Function
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> object:
        # Imported when they are wanted, and not with the package, which is on the path of every ifup.
        if name in _FUNCTIONS:
            from importlib import import_module

            return import_module(f"{self.__name__}.{name}")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


_FUNCTIONS = ("locate", "observe")

sys.modules[__name__].__class__ = Package
