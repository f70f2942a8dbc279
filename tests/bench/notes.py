"""Why a goal is not met, by row; docs/performance.md shows these notes while it is not.

Each run measures by how much a goal is missed; the notes say what the profile showed (python3 -X importtime, cProfile,
strace).  Their milliseconds are from Debian 12 on two cores of an AMD EPYC, and can only be compared with each other.
"""

NOTES = {
    "ifup-plain": """\
Each of the four hooks is a shell that leaves at once (`libexec/enter`). That alone, an empty sh script in each of the
four directories, is 1.17; the rest is for asking the shell for its environment, and three files for a record.""",
    "ifup-200": """\
As for one interface: a shell starts 800 times and exits at once.""",
    "up-known": """\
The interpreter and the module `os` are 1.1 of it. The rest is ours, some 11 ms: 8 to load 32 modules, the rest for the
work itself: a record is read and one is written under a lock, some ten requests to the kernel, the lease, the decision
over all interfaces, a line to syslog. The garbage collector (1.5), netifaces (0.5), reading text as ASCII (0.3), and
rules that were read four times have been saved. Nothing that was tried would reach the goal: without every function
that such a run does not call, it takes 2.25, and with all modules in one file a fifteenth less.""",
    "lines-1000": """\
Of the 8 ms for a thousand lines, 2 are the shell's and the interpreter's, which take over an environment of 70 kB. 4
are for reading them once: they are split into words, and every MAC address and domain is checked and normalised, 2
microseconds for each test. 1 ms is for comparing them with what is seen, and 1 for the record, which holds all of
them.""",
    "tables": """\
Routes, neighbours, links and addresses are requested one by one, and cost the same in a table of any size. The rest is
the time that the kernel itself needs to search the IPv6 routes of a link that has no IPv6 router.""",
    "guard": """\
In instructions (callgrind), an interpreter takes 21 million, and the hook 58: 16 to start an interpreter, 28 to load
`os` and 32 modules of ours, and 14 for the work: libnftables' transaction, the record, which is written twice under a
lock, and a listing of what stands now.""",
    "guards-40": """\
What grows with the number of guards, by the profile of a hook with 40 of them: reading their records and those of
their interfaces, once (8 ms); what stands in the firewall, listed once for all (8 ms), so that each run notices what
somebody took away; the links' state (4 ms); the decision (5 ms). The kernel's own share, and libnftables' (which
fetches all chains and sets before each transaction), grow as well. With iptables, one `ifup` runs twelve programs:
six transactions, each of which reads the table first, and six times iptables-save, which lists all guards' rules, to
see that what was written is there (`iptables -S` reads a single chain, and a guard has several).""",
    "guards-20": """\
As for one guarded interface; the watcher shares the cores.""",
    "watcher": """\
The kernel sends it no news of routes, neighbours and addresses of other links. Of links it sends all, since names
tell which are ours; each costs 10 microseconds.""",
    "parallel-50": """\
Each of the fifty uses the processor for as long as the single one (46 ms, `ifup` and all its programs). In addition,
the watcher reads the events meanwhile, and 50 processes share the cores.""",
}
