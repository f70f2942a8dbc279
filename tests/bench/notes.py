"""Why a goal is not met, by row: shown in docs/performance.md as long as it is not.

By how much is measured anew each time; what is written here is what the profile showed (python3 -X importtime,
cProfile, strace).  Milliseconds in here are those of Debian 12 on two cores of an AMD EPYC, to be read beside each
other.
"""

NOTES = {
    "ifup-plain": """\
Nothing of ours is left to take away: the four hooks cost less than four empty Python files (the line below the row),
since they leave before the interpreter tidies up. What remains, some 6 ms each, is the interpreter's own start. How
much that is of an `ifup` depends on what else it does: beside DHCP it is little.""",
    "ifup-200": """\
As for one interface: 800 starts of an interpreter that leaves at once.""",
    "up-known": """\
The shell hook is a shell and three small programs, and takes less time than a Python interpreter needs to start: of
what the goal allows, the interpreter (6.5 ms) and the module `os` (0.8) leave nothing. The other 5 of ours: 3.5 to load
its 17 modules, none of which takes more than 0.5, the rest for the work itself, which is a record read and one written
under a lock, some ten questions to the kernel, the lease, the decision over all interfaces, a line to syslog.
The shell hook keeps no record, knows IPv4 only, and decides for one interface alone. What was to be had without
fewer or larger modules is gone: the garbage collector (1.5), netifaces (0.5), reading text as ASCII (0.3), rules read
four times over.""",
    "up-resolve": """\
The same as with the MAC known. Asking costs the shell hook two more programs (`ping`, `ip neigh` again) and ours two
messages to the kernel, which makes up for less than the interpreter takes.""",
    "lines-1000": """\
Of the 7 ms that a thousand lines cost, 5 are the reading: split into words, every MAC address and domain checked and
normalised, 2.5 microseconds a test; they are read once. 1 is comparing them with what is seen, 1 the record, which
holds them all.""",
    "tables": """\
Routes, neighbours, links and addresses are asked for one by one, and cost the same in any table; what is left is what
the kernel itself takes to go through the IPv6 routes of a link that has no IPv6 router.""",
    "guard": """\
The other side neither looks whether its rules stand nor remembers them. Of ours, importing python3-nftables (with
json and ctypes) takes 7.5 ms, libnftables itself, asked four times, 4, our own modules some 5, the interpreter and
`os` 8.""",
    "parallel-50": """\
Each of the fifty takes the processor for as long as the one does (46 ms, `ifup` and all its programs). What comes on
top is the watcher, which looks at the news meanwhile, and 50 processes sharing the cores.""",
}
