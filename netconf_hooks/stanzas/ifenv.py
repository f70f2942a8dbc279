"""The environment that ifupdown passes to a hook, parsed once.

Sources: interfaces(5), "IFACE OPTIONS" and "HOOK SCRIPTS", for ifupdown; ifupdown-executor(7) for ifupdown-ng.
Captured environments of ifupdown 0.8.41, ifupdown-ng 0.11.4 and ifupdown2 3.0.0 are in tests/unit/environments/.
"""

from __future__ import annotations

import os

from netconf_hooks.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The MODE (interfaces(5)) that belongs to the directory of a hook.
MODES = {"pre-up": "start", "up": "start", "down": "stop", "post-down": "stop"}

# The stanza's options for resolvconf(8): evidence for `dns-domain` and `dns-server`.
EVIDENCE = ("dns-domain", "dns-search", "dns-nameserver", "dns-nameservers")

# The option with the tunnels that the hook of Debian's openvpn starts when the interface is up, despite our rules.
STARTED = "openvpn"

# A hook of ifupdown is a child of run-parts, which ifup runs in a shell.  _DEEPEST: search at most so many parents.
_PARENT = b"run-parts"
_RUNS = (b"ifup", b"ifdown")
_DEEPEST = 16

# The run of a hook whose ifup can't be found; such runs can't be distinguished.
UNKNOWN_RUN = "unknown"

# The options with the ports of a bridge or a bond: bridge-utils-interfaces(5), ifenslave(8).
PARTS = ("bridge-ports", "bond-slaves", "slaves")

# A kernel's interface name has at most 15 characters (IFNAMSIZ, netdevice(7)); an alias adds a colon and a label.
LONGEST_NAME = 64


class Invocation(Record):
    """One run of one hook.

    phase: its directory: ``pre-up``, ``up``, ``down``, ``post-down``.
    iface: the interface as ifupdown names it.
    logical: the name of the stanza (mapping stanzas, ``ifup eth0=home``); empty if not given.
    family: the address family of the pass, ``inet`` or ``inet6`` (a list under ifupdown2); ``any`` if not given.
    method: ``dhcp``, ``static``, ``ppp``; empty if not given.
    run: the ifup that runs the hook, see `find_run`; empty for ifdown.
    began: when the hook was started, see `find_start`; 0 if that is not known.
    verbose: whether to show everything (``ifup -v``).
    options: the stanza's ``netconf-*``, resolver and port options, and the option ``openvpn``, by their names in the
        stanza; the values of a repeated option are joined by newlines.
    problem: why to ignore this run (``--all``, the loopback interface, a name no interface can have); else empty.
    """

    __slots__ = ("phase", "iface", "logical", "family", "verbose", "options", "problem", "method", "run", "began")

    def __init__(
        self,
        phase: str,
        iface: str,
        logical: str,
        family: str,
        verbose: bool,
        options: Mapping[str, str],
        problem: str,
        method: str = "",
        run: str = "",
        began: int = 0,
    ) -> None:
        self.phase = phase
        self.iface = iface
        self.logical = logical
        self.family = family
        self.verbose = verbose
        self.options = options
        self.problem = problem
        self.method = method
        self.run = run
        self.began = began


def read_environment(phase: str, environ: Mapping[str, str]) -> Invocation:
    """Return the invocation of a hook in the directory of `phase`, from its environment.  Never raises."""
    iface = environ.get("IFACE", "")
    options = {}
    for variable, value in environ.items():
        if variable.startswith("IF_"):
            option = variable[3:].lower().replace("_", "-")
            if is_relevant(option):
                options[option] = value
    if "IF_OPENVPN" in environ and any(option.startswith("netconf-") for option in options):
        options[STARTED] = environ["IF_OPENVPN"]
    return Invocation(
        phase=phase,
        iface=iface,
        logical=environ.get("LOGICAL", ""),
        family=environ.get("ADDRFAM") or "any",
        verbose=environ.get("VERBOSITY", "0") not in ("", "0"),
        options=options,
        problem=_find_problem(phase, iface, environ),
        method=environ.get("METHOD", ""),
        run=find_run(environ) if MODES[phase] == "start" else "",
        began=find_start(),
    )


def find_run(environ: Mapping[str, str], proc: str = "/proc") -> str:
    """Return which run of ifup a hook belongs to: its pid and start time, ``4711:123456`` (proc(5)).

    Empty for ifupdown-ng, which passes no logical interface, and for ifupdown2, which runs the hooks itself: both have
    one pass for each interface.  `UNKNOWN_RUN` if there is no ifup among the hook's ancestors.
    """
    if not (environ.get("LOGICAL") and environ.get("ADDRFAM")):
        return ""
    pid = os.getppid()
    for depth in range(_DEEPEST):
        try:
            with open(f"{proc}/{pid}/stat", "rb") as file:
                before, _, after = file.read().rpartition(b")")  # the program's name may contain any character
            program, fields = before.partition(b"(")[2], after.split()
            if depth == 0 and program not in (_PARENT, b""):
                return ""
            if program in _RUNS:
                return f"{pid}:{int(fields[19])}"
            pid = int(fields[1])
        except (OSError, IndexError, ValueError):
            break
    return UNKNOWN_RUN


def find_start(proc: str = "/proc") -> int:
    """Return when ifupdown started this hook, in clock ticks since boot (proc(5), starttime); 0 if that is not known.

    This is the start of its run-parts: a hook may be the last of many, and run-parts continues if ifupdown is killed.
    """
    started = 0
    for process in ("self", str(os.getppid())):
        try:
            with open(f"{proc}/{process}/stat", "rb") as file:
                before, _, after = file.read().rpartition(b")")
            if not started or before.endswith(b"(" + _PARENT):
                started = int(after.split()[19])
        except (OSError, IndexError, ValueError):
            break
    return started


def has_ended(run: str, proc: str = "/proc") -> bool:
    """Whether a run of ifup (`find_run`) is known to have ended; False if its process is not known."""
    pid, _, started = run.partition(":")
    if not started:
        return False
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19] != started.encode()
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, IndexError):
        return False


def is_roaming(iface: str, directory: str = "/run") -> bool:
    """Whether wpa_action(8) runs this ifup or ifdown of a wireless interface, and continues to handle the interface.

    Meanwhile its lock exists (wpasupplicant's functions.sh).  ``wpa_action IFACE stop`` first ends wpa_cli, whose pid
    file disappears.
    """
    name = f"{directory}/wpa_action.{device_of(iface)}"
    if not os.path.lexists(f"{name}.ifupdown"):  # a symbolic link to nothing
        return False
    return has_wpa_action(iface, directory)


def has_wpa_action(iface: str, directory: str = "/run") -> bool:
    """Whether wpa_cli runs for an interface, to call wpa_action(8) at each event."""
    try:
        with open(f"{directory}/wpa_action.{device_of(iface)}.pid", "rb") as file:
            return os.path.exists(f"/proc/{int(file.read(32))}")
    except (OSError, ValueError):
        return False


def is_relevant(option: str) -> bool:
    """Whether an option of a stanza is a netconf option, evidence, or names a link's ports."""
    return option.startswith("netconf-") or option in EVIDENCE or option in PARTS


def device_of(iface: str) -> str:
    """Return the kernel's device of an interface: ``eth0`` for the alias ``eth0:1`` (interfaces(5))."""
    return iface.partition(":")[0]


def _find_problem(phase: str, iface: str, environ: Mapping[str, str]) -> str:
    mode = environ.get("MODE") or MODES[phase]
    if not iface or iface == "--all" or environ.get("ADDRFAM") == "meta":
        return "the pass for all interfaces"
    if iface == "lo":
        return "the loopback interface"
    if not is_name(iface):
        return "not the name of an interface"
    if mode != MODES[phase]:
        return f"MODE={mode} in a hook for {MODES[phase]}"
    return ""


def is_name(iface: str) -> bool:
    """Whether `iface` can be the name of an interface, and so of a record.

    The kernel refuses '/', white space, '.' and '..' (dev_valid_name, net/core/dev.c).
    """
    return (
        0 < len(iface) <= LONGEST_NAME
        and iface not in (".", "..")
        and not iface.startswith(("-", "."))
        and not any(c == "/" or c.isspace() or not c.isprintable() for c in iface)
    )
