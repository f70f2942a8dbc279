"""What is measured: a function for each row of docs/performance.md, in its order.

`ROWS` names them for ``make bench ROWS='ifup-plain memory'``.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median

from tests.lab.archive import ArchiveError
from tests.lab.laptop import Laptop
from tests.lab.namespaces import ENVIRONMENT
from tests.lab.network import HOME, OFFICE, Network
from tests.lab.old_guessnet import SCRIPT as GUESSNET
from tests.lab.old_guessnet import fetch_guessnet, install_guessnet
from tests.lab.waiting import wait_until

from .guards import measure_forty, measure_twenty
from .race import BenchError, Curve, Result, Stopwatch, Took, cpu_milliseconds, milliseconds, race
from .scene import (
    CORES, HERE, HOOK, IFDOWN, IFUP, INTERPRETER, SHELL_HOOK, WATCHERS_PIPE, Bench, add_wires, open_twins
)  # fmt: skip
from .watching import measure_watcher

PRE_UP_HOOK = "/etc/network/if-pre-up.d/00-netconf-hooks"
NFT = "/usr/sbin/nft"
OURS_FOR_GUESSNET = "/usr/sbin/guessnet-ifupdown"


def measure_no_rules(bench: Bench) -> Iterator[Result]:
    """The hook of an interface without rules."""
    stopwatch = bench.office.stopwatch
    environment = ENVIRONMENT | {"IFACE": "eth1", "ADDRFAM": "inet", "METHOD": "dhcp", "MODE": "start", "PHASE": "up"}
    base, ours = race(
        bench.rounds,
        lambda: stopwatch.measure([INTERPRETER], environment=environment),
        lambda: stopwatch.measure([[HOOK]], environment=environment),
    )
    yield Result(
        "hook, interface without rules", "`python3 -IS -c pass`", 1.0, "ms", milliseconds(base), milliseconds(ours)
    )


def measure_plain(bench: Bench) -> Iterator[Result]:
    """ifup and ifdown of one plain interface; beside it, what four hooks would cost that do nothing at all."""
    with open_twins(bench.bare_image, bench.image, bench.bare_image) as (network, laptops, stopwatches):
        write_plain(network, laptops, 1)
        for phase in ("pre-up", "up", "down", "post-down"):
            laptops[2].write(f"/etc/network/if-{phase}.d/nothing", "#!/usr/bin/python3 -IS\n", 0o755)
        runners = [lambda each=each: each.measure([[IFUP, "wire1"]], [[IFDOWN, "wire1"]]) for each in stopwatches]
        base, ours, nothing = map(milliseconds, race(bench.rounds, *runners))
    what, against = "`ifup`+`ifdown` of a plain interface, four hooks", "empty hook directories"
    yield Result(what, against, 1.25, "ms", base, ours)
    yield Result("to compare: four empty files with the first line `#!/usr/bin/python3 -IS`", against, None, "ms",
                 base, nothing)  # fmt: skip


def measure_200(bench: Bench) -> Iterator[Result | Curve]:
    """ifup -a and ifdown -a of many."""
    lines: dict[str, list[tuple[float, float]]] = {"empty hook directories": [], "netconf-hooks": []}
    for count in (25, 50, 100, 200):
        with open_twins(bench.bare_image, bench.image) as (network, laptops, stopwatches):
            write_plain(network, laptops, count)
            runners = [lambda each=each: each.measure([[IFUP, "-a"]], [[IFDOWN, "-a"]]) for each in stopwatches]
            base, ours = map(milliseconds, race(min(bench.rounds, 5 if count == 200 else 3), *runners))
        for line, taken in zip(lines.values(), (base, ours), strict=True):
            line.append((count, median(taken)))
    yield Result(
        "200 interfaces, `ifup -a` then `ifdown -a`, no rules", "empty hook directories", 1.25, "ms", base, ours
    )
    title = "ifup -a, then ifdown -a, of plain interfaces"
    yield Curve("interfaces", title, "interfaces", {label: tuple(points) for label, points in lines.items()})


def write_plain(network: Network, laptops: list[Laptop], count: int) -> None:
    """Give each laptop the same plain interfaces."""
    add_wires(network, count)
    stanzas = (
        f"auto wire{number}\niface wire{number} inet static\n    address 10.{number}.0.2/24\n"
        for number in range(1, count + 1)
    )
    text = "".join(stanzas)
    for laptop in laptops:
        laptop.write("/etc/network/interfaces", text)


def measure_up_known(bench: Bench) -> Iterator[Result]:
    """The if-up hook with nothing to be done."""
    office = bench.office
    shell, ours, bare = race(
        bench.rounds,
        lambda: office.run_known(SHELL_HOOK),
        lambda: office.run_known(HOOK),
        lambda: office.run_known(*INTERPRETER),
    )
    what = "if-up, one location by gateway MAC and domain, MAC known, tunnel already right: "
    yield Result(what + "wall", "`python3 -IS -c pass`", 1.8, "ms", milliseconds(bare), milliseconds(ours))
    yield Result(what + "wall", "the shell hook", None, "ms", milliseconds(shell), milliseconds(ours))
    yield Result(what + "CPU time", "the shell hook", None, "ms", cpu_milliseconds(shell), cpu_milliseconds(ours))


def measure_up_resolve(bench: Bench) -> Iterator[Result]:
    """The same, but the router has to be asked for its MAC address."""
    office = bench.office
    base, ours = race(bench.rounds, lambda: office.run_unknown(SHELL_HOOK), lambda: office.run_unknown(HOOK))
    yield Result(
        "the same, MAC to be resolved", "the shell hook", None, "ms", milliseconds(base), milliseconds(ours)
    )


def measure_lines(bench: Bench) -> Iterator[Result | Curve]:
    """The same with very many location lines."""
    ours_by_count: list[tuple[float, float]] = []
    shell_by_count: list[tuple[float, float]] = []
    for count in (10, 100, 1000):
        rounds = bench.rounds if count == 1000 else min(bench.rounds, 7)
        with bench.open_office(count) as many:
            base, ours, shell = race(
                rounds,
                lambda: bench.office.run_known(HOOK),
                lambda: many.run_known(HOOK),
                lambda: bench.office.run_known(SHELL_HOOK),
            )
        if not ours_by_count:
            ours_by_count.append((1, median(milliseconds(base))))
            shell_by_count.append((1, median(milliseconds(shell))))
        ours_by_count.append((count, median(milliseconds(ours))))
        shell_by_count.append((count, median(milliseconds(shell))))
    yield Result(
        "the same with 1,000 location lines", "with 1 line", 1.5, "ms", milliseconds(base), milliseconds(ours)
    )
    lines = {"the shell hook, which knows one": tuple(shell_by_count), "netconf-hooks": tuple(ours_by_count)}
    yield Curve("rules", "if-up with many location lines", "netconf-location lines", lines, logarithmic=True)


def measure_tables(bench: Bench) -> Iterator[Result | Curve]:
    """The same on machines whose kernel's tables are large."""
    few = bench.office
    lines: dict[str, list[tuple[float, float]]] = {"the shell hook": [], "netconf-hooks": []}
    cases = [("routes", count) for count in (10_000, 100_000, 1_000_000)]
    for what, count in (*cases, ("neighbours", 10_000), ("interfaces", 1_000)):
        whole = (what, count) not in cases[:-1]
        with bench.open_office() as many:
            many.fill(what, count)
            runners = [lambda: few.run_known(HOOK), lambda: many.run_known(HOOK)]
            if what == "routes":
                runners += [lambda: many.run_known(SHELL_HOOK), lambda: few.run_known(SHELL_HOOK)]
            base, ours, *shell = map(milliseconds, race(bench.rounds if whole else min(bench.rounds, 5), *runners))
        if shell:
            if not lines["netconf-hooks"]:
                lines["netconf-hooks"].append((1, median(base)))
                lines["the shell hook"].append((1, median(shell[1])))
            lines["netconf-hooks"].append((count, median(ours)))
            lines["the shell hook"].append((count, median(shell[0])))
        if not whole:
            continue
        title = f"the same with {count:,} {what}"
        yield Result(title, "with few", 1.2, "ms", base, ours)
        if shell:
            yield Result(title, "the shell hook there", 0.25, "ms", shell[0], ours)
    points = {label: tuple(each) for label, each in lines.items()}
    yield Curve("routes", "if-up with many routes", "routes", points, logarithmic=True)


GUARD_TABLES = ("inet netconf-guard", "netdev netconf-guard")
GUARD_RECORDS = "/run/netconf-hooks/guards"


def measure_guard(bench: Bench) -> Iterator[Result]:
    """The pre-up hook of a guarded interface."""
    with open_twins(bench.image) as (network, (laptop,), (stopwatch,)):
        add_wires(network, 1)
        stopwatch.hold(WATCHERS_PIPE)
        environment = {**ENVIRONMENT, "IFACE": "wire1", "LOGICAL": "wire1", "ADDRFAM": "inet", "METHOD": "dhcp",
                       "MODE": "start", "PHASE": "pre-up", "IF_NETCONF_GUARD": "yes"}  # fmt: skip

        def close() -> Took:
            took = stopwatch.measure([[PRE_UP_HOOK]], environment=environment)
            if took.output or "netdev" not in laptop.run(["nft", "list", "tables"]).stdout:
                raise BenchError(f"the guard does not stand: {took.output}")
            open_again()
            return took

        def close_by_nft() -> Took:
            took = stopwatch.measure([INTERPRETER], [[NFT, "-f", rules]])
            open_again()
            return took

        def open_again() -> None:
            stopwatch.run(NFT, "-f", "-", text="".join(f"delete table {table}\n" for table in GUARD_TABLES))
            stopwatch.run("/bin/rm", "-rf", GUARD_RECORDS)

        rules = "/run/bench.nft"
        stopwatch.measure([[PRE_UP_HOOK]], environment=environment)
        laptop.write(rules, laptop.run(["nft", "list", "ruleset"]).stdout)
        open_again()
        base, ours, bare = map(
            milliseconds, race(bench.rounds, close_by_nft, close, lambda: stopwatch.measure([INTERPRETER]))
        )
    yield Result("guard closed, whole hook", "`python3 -IS -c pass`", 3.0, "ms", bare, ours)
    yield Result(
        "guard closed, whole hook", "bare `nft -f` of the same rules, and an interpreter", None, "ms", base, ours
    )


MAPPING = f"""\
mapping eth0
    script {{script}}
    map home office
    map default: other

iface home inet static
    address 192.168.1.77/24
    test peer address {HOME.router} mac {HOME.router_mac}
iface office inet manual
    test peer address {OFFICE.router} mac {OFFICE.router_mac}
iface other inet dhcp
"""


def measure_mapping(bench: Bench) -> Iterator[Result]:
    """Choosing the logical interface."""
    try:
        guessnet = fetch_guessnet()
    except ArchiveError as error:
        raise BenchError(f"guessnet 0.56 can't be had: {error}") from error
    with ExitStack() as undo:
        network = undo.enter_context(Network((HOME,), ("eth0",)))
        laptop = undo.enter_context(Laptop(network, bench.image))
        stopwatch = undo.enter_context(Stopwatch(laptop))
        install_guessnet(laptop, guessnet)
        laptop.write("/etc/network/interfaces", MAPPING.format(script=OURS_FOR_GUESSNET))
        network.plug(HOME.name, "eth0")

        def choose(script: str) -> Took:
            took = stopwatch.measure([[script, "eth0"]], text="home office\ndefault: other\n")
            if took.output != "home\n":
                raise BenchError(f"{script} chose {took.output!r}")
            return took

        base, ours = race(bench.rounds, lambda: choose(GUESSNET), lambda: choose(OURS_FOR_GUESSNET))
    yield Result(
        "choosing the logical interface by one answering peer (mapping)", "guessnet 0.56, the same file", 0.05, "ms",
        milliseconds(base), milliseconds(ours),
    )  # fmt: skip


# Seconds that the ten servers are silent; those of `REACH` lose the first packet, which is sent again after a second.
TLS = {7101: 0.3, 7102: 0.6, 7103: 0.9, 7104: 1.1, 7105: 1.2}
REACH = (7001, 7002, 7003, 7004, 7005)


def measure_probes(bench: Bench) -> Iterator[Result]:
    """Ten slow servers, all of which have to be asked."""
    with ExitStack() as undo:
        network = undo.enter_context(Network((OFFICE,), ("eth0",)))
        laptop = undo.enter_context(Laptop(network, bench.image))
        stopwatch = undo.enter_context(Stopwatch(laptop))
        sha256 = start_servers(network)
        network.plug(OFFICE.name, "eth0")
        laptop.run(["ip", "link", "set", "eth0", "up"])
        laptop.run(["ip", "address", "add", "192.168.2.77/24", "dev", "eth0"])
        stopwatch.hold(WATCHERS_PIPE)
        slowest = f"office-lan tls={OFFICE.router}:{max(TLS)}/sha256:{sha256}"
        lines = [
            *(f"reach-{port} !reach={OFFICE.router}:{port}" for port in REACH),
            *(f"tls-{port} tls={OFFICE.router}:{port}/sha256:{64 * '0'}" for port in TLS if port != max(TLS)),
        ]

        def run(*locations: str) -> Took:
            environment = {**ENVIRONMENT, "IFACE": "eth0", "LOGICAL": "eth0", "ADDRFAM": "inet", "METHOD": "static",
                           "MODE": "start", "PHASE": "post-up",
                           "IF_NETCONF_LOCATION": "\n".join(locations)}  # fmt: skip
            took = stopwatch.measure([[HOOK]], environment=environment)
            if laptop.run(["netconf-hooks", "location", "eth0"]).stdout != "office-lan\n":
                raise BenchError(f"the slowest server was not recognised: {took.output}{laptop.log()}")
            return took

        base, ours = race(bench.rounds, lambda: run(slowest), lambda: run(*lines, slowest))
    yield Result(
        "probes: ten slow `tls`/`reach` tests", "the slowest one", 1.1, "ms", milliseconds(base), milliseconds(ours)
    )


def start_servers(network: Network) -> str:
    """Start the slow servers at the office's router; return the SHA-256 of their certificate."""
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=office".split()
    network.run(OFFICE.name, [*new, "-keyout", "/run/slow.key", "-out", "/run/slow.pem"])
    certificate = network.read("/run/slow.pem")
    network.write("/run/slow.pem", certificate + network.read("/run/slow.key"))
    drop = "tcp dport {} tcp flags & (syn | ack) == syn numgen inc mod 2 0 drop"
    rules = "\n".join(drop.format(port) for port in REACH)
    network.run(OFFICE.name, ["nft", "-f", "-"], text=f"""
table inet slow {{
    chain input {{
        type filter hook input priority 0
{rules}
    }}
}}
""")
    ports = [*(f"{port}=0" for port in REACH), *(f"{port}={seconds}" for port, seconds in TLS.items())]
    network.run(
        OFFICE.name, ["/usr/bin/python3", str(HERE / "slow_servers.py"), OFFICE.router, "/run/slow.pem", *ports]
    )
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


PARALLEL = 50
RULED = """\
iface wire{number} inet static
    address 10.{number}.0.2/24
    gateway 10.{number}.0.1
    metric {number}
    up ip neigh replace 10.{number}.0.1 lladdr {mac} dev wire{number} nud permanent
    netconf-location office-lan gateway-mac={mac} gateway=10.{number}.0.1
    netconf-vpn openvpn corp unless office-lan
"""


def measure_parallel(bench: Bench) -> Iterator[Result]:
    """Many ruled interfaces at the same time; the watcher runs beside, as it does in life."""
    count = PARALLEL
    with ExitStack() as undo:
        network = undo.enter_context(Network((), ()))
        laptop = undo.enter_context(Laptop(network, bench.image))
        stopwatch = undo.enter_context(Stopwatch(laptop))
        add_wires(network, count)
        stanzas = (RULED.format(number=number, mac=OFFICE.router_mac) for number in range(1, count + 1))
        laptop.write("/etc/network/interfaces", "\n".join(stanzas))

        def run(*numbers: int) -> Took:
            took = stopwatch.measure([[IFUP, f"wire{number}"] for number in numbers])
            status = laptop.run(["netconf-hooks", "status"]).stdout
            if status.count("office-lan") < len(numbers):
                raise BenchError(f"not all were recognised: {status}")
            stopwatch.measure([[IFDOWN, f"wire{number}"] for number in numbers])
            wait_until(lambda: not laptop.processes().keys() - before, "the watcher to end")
            return took

        before = laptop.processes().keys()
        one, all_of_them = race(bench.rounds, lambda: run(1), lambda: run(*range(1, count + 1)))
    share = tuple(took * count / CORES for took in milliseconds(one))
    yield Result(
        f"{count} ruled interfaces raised in parallel", f"one, times {count} over {CORES} cores", 1.0, "ms",
        share, milliseconds(all_of_them),
    )  # fmt: skip


def measure_memory(bench: Bench) -> Iterator[Result]:
    """Peak memory of the if-up hook."""
    office = bench.office

    # Not by the stopwatch: what execve(2) replaces counts as well, and that is an interpreter there.
    weigh = ("/usr/bin/time", "-f", "%M")
    base, ours = race(
        bench.rounds,
        lambda: office.run_known(*weigh, *INTERPRETER),
        lambda: office.run_known(*weigh, HOOK),
    )
    yield Result(
        "peak memory of the if-up hook", "bare interpreter", 1.5, "KiB",
        tuple(float(took.output) for took in base), tuple(float(took.output) for took in ours),
    )  # fmt: skip


ROWS: dict[str, Callable[[Bench], Iterator[Result | Curve]]] = {
    "hook-no-rules": measure_no_rules,
    "ifup-plain": measure_plain,
    "up-known": measure_up_known,
    "up-resolve": measure_up_resolve,
    "lines-1000": measure_lines,
    "tables": measure_tables,
    "guard": measure_guard,
    "mapping": measure_mapping,
    "probes": measure_probes,
    "ifup-200": measure_200,
    "parallel-50": measure_parallel,
    "guards-40": measure_forty,
    "guards-20": measure_twenty,
    "watcher": measure_watcher,
    "memory": measure_memory,
}
