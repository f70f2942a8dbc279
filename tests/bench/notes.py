"""Why a goal is not met, by row; docs/performance.md shows these notes while it is not.

Each run measures by how much a goal is missed; the notes say what the profile showed (python3 -X importtime, cProfile,
strace).  Their milliseconds are from Debian 12 on two cores of an AMD EPYC, and can only be compared with each other.
"""

NOTES = {
    "ifup-plain": """\
Nothing more can be saved in the hooks: the four hooks cost less than four empty Python files (the row below), since
they exit before the interpreter cleans up. The rest, some 6 ms each, is the interpreter's own start. How much this
matters depends on what else an `ifup` does: compared with DHCP it is little.""",
    "ifup-200": """\
As for one interface: an interpreter starts 800 times and exits at once.""",
    "up-known": """\
The shell hook is a shell and three small programs, and takes less time than a Python interpreter needs to start: the
interpreter (6.5 ms) and the module `os` (0.8) already use up what the goal allows. The other 5 ms are ours: 3.5 to load
17 modules, none of which takes more than 0.5; the rest for the work itself: a record is read and one is written under a
lock, some ten requests to the kernel, the lease, the decision over all interfaces, a line to syslog. The shell hook
keeps no record, supports IPv4 only, and decides for one interface alone. Everything that could be saved without fewer
or larger modules has been saved: the garbage collector (1.5), netifaces (0.5), reading text as ASCII (0.3), rules that
were read four times.""",
    "up-resolve": """\
The same as with a known MAC. To ask for it, the shell hook runs two more programs (`ping`, `ip neigh` again), and ours
sends two messages to the kernel; the difference is smaller than the interpreter's start.""",
    "lines-1000": """\
Of the 7 ms for a thousand lines, 5 are for reading them once: they are split into words, and every MAC address and
domain is checked and normalised, 2.5 microseconds for each test. 1 ms is for comparing them with what is seen, and 1
for the record, which holds all of them.""",
    "tables": """\
Routes, neighbours, links and addresses are requested one by one, and cost the same in a table of any size. The rest is
the time that the kernel itself needs to search the IPv6 routes of a link that has no IPv6 router.""",
    "guard": """\
The other side neither checks whether its rules are in place nor records them. In ours, importing python3-nftables (with
json and ctypes) takes 7.5 ms, four requests to libnftables 4, our own modules some 5, the interpreter and `os` 8.""",
    "parallel-50": """\
Each of the fifty uses the processor for as long as the single one (46 ms, `ifup` and all its programs). In addition,
the watcher reads the events meanwhile, and 50 processes share the cores.""",
}
