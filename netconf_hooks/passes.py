"""Decides which passes of ifupdown count for an interface, and in which order.  Pure.

ifupdown runs the hooks once for each ``iface`` stanza of an interface: a *pass*.  The options of all passes count
together, from the first pre-up to the last post-down.  Only passes with netconf options are recorded: a stanza without
them removes nothing and replaces nothing.

The passes of one run of ifup belong together.  A later run replaces the passes of the previous run, stanza by stanza:
its n-th pass of a logical interface and address family replaces the n-th one of the previous run.  If the later run
fails, the passes that it did not reach stay in force until ``ifdown``.  If an ifdown was killed, its hooks continue
without it; they end nothing that a later ifup has begun.
"""

from __future__ import annotations

from netconf_hooks.stanzas.ifenv import UNKNOWN_RUN
from netconf_hooks.stanzas.rules import Rules, read_rules
from netconf_hooks.state import ENDED, KEPT, LEAVING, Pass, UP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from netconf_hooks.stanzas.ifenv import Invocation


def make_pass(invocation: Invocation) -> Pass:
    """Return the pass that a hook belongs to."""
    return Pass(
        invocation.family, invocation.options, invocation.logical, iface=invocation.iface, run=invocation.run,
        began=invocation.began,
    )  # fmt: skip


def make_passes(iface: str, stanzas: Iterable[tuple[str, Mapping[str, str]]]) -> tuple[Pass, ...]:
    """Return the passes that ifup will make for an interface.

    stanzas: the address family and the options of each; those without netconf options are left out.
    """
    passes = tuple(Pass(family, options, iface, iface) for family, options in stanzas)
    return tuple(each for each in passes if each.options) or passes[:1]


def read_rules_of(passes: Iterable[Pass]) -> Rules:
    """Return the rules of all options of passes together: see `rules.read_rules`."""
    return read_rules(*[each.options for each in passes])


def has_rules(passes: Iterable[Pass]) -> bool:
    """Whether any pass has a netconf option, not only evidence (``dns-domain``)."""
    return any(option.startswith("netconf-") for each in passes for option in each.options)


def list_of(passes: Iterable[Pass], iface: str) -> tuple[Pass, ...]:
    """Return the passes of one interface."""
    return tuple(each for each in passes if each.iface == iface)


def begin_pass(passes: Sequence[Pass], new: Pass) -> tuple[Pass, ...]:
    """pre-up: return the passes with a new one: in the place of the same pass of the previous run, or at the end.

    If ifupdown has one pass for each interface (`Pass.run` is empty), the new one replaces the interface's old one.
    """
    if not new.run:
        others = tuple(each for each in passes if each.iface != new.iface)
        return (*others, new) if new.options else others
    if not new.options:
        return _note_run(passes, new)
    # A new run ends the passes that an ifdown left over.  But a stanza without rules must not remove the last rules.
    begins = has_rules([new])
    kept = [
        each for each in passes
        if each.iface != new.iface or each.run == new.run or each.stage in (UP, KEPT) or not begins
    ]
    found = _find(kept, new) if new.run == UNKNOWN_RUN else None
    if found is not None:
        kept[found] = kept[found].change(began=new.began)
        return _note_run(kept, new)
    for number, each in enumerate(kept):
        if _name(each) == _name(new) and each.run != new.run:
            kept[number] = new
            return _note_run(kept, new)
    return _note_run([*kept, new], new)


def complete_pass(passes: Sequence[Pass], new: Pass) -> tuple[Pass, ...]:
    """up: as `begin_pass`, but a pass that its pre-up has already added stays at its place."""
    if new.run and _find(passes, new) is not None:
        return _note_run(passes, new)
    return begin_pass(passes, new)


def replaces(passes: Sequence[Pass], new: Pass) -> bool:
    """Whether a new pass takes the place of one of an earlier run: ``ifup --force`` of an interface that is up."""
    if not new.run:
        return any(each.iface == new.iface for each in passes)
    return bool(new.options) and any(_name(each) == _name(new) and each.run != new.run for each in passes)


def is_overtaken(passes: Iterable[Pass], old: Pass) -> bool:
    """Whether an ifup has begun since ifupdown started this hook of ifdown; then the hook must not end anything.

    Only one ifup or ifdown of an interface runs at a time, but the hooks of a killed one continue.

    old: the pass that the hook of ifdown belongs to.
    """
    return bool(old.began) and any(each.iface == old.iface and each.began >= old.began for each in passes)


def leave_passes(passes: Sequence[Pass], old: Pass, kept: bool) -> tuple[Pass, ...]:
    """down: return the passes, with those of the interface marked as leaving.

    ifupdown only knows the logical interface that was raised last, so its ifdown ends all of them.

    old: the pass that ends; kept: whether wpa_action itself runs this ifdown: then the stanzas over which it has raised
    another logical interface stay in force.
    """
    if is_overtaken(passes, old):
        return tuple(passes)
    marked = []
    for each in passes:
        if each.iface == old.iface and each.stage != ENDED and not (kept and each.logical != old.logical):
            each = each.change(stage=LEAVING)
        marked.append(each)
    return tuple(marked)


def end_pass(passes: Sequence[Pass], old: Pass, down: bool, kept: bool) -> tuple[Pass, ...]:
    """post-down: return the passes that are left.

    old: the pass that ends; down: whether the link is down; kept: as in `leave_passes`.

    A link that is down has no passes.  While it is up, all passes of an interface stay until the last of them has
    ended; if there is no other interface on the device, they stay until the link is down.
    """
    if is_overtaken(passes, old):
        return tuple(passes)
    marked = list(leave_passes(passes, old, kept))
    for number, each in enumerate(marked):
        if each.iface == old.iface and each.stage != ENDED and _share_stanza(each, old):
            marked[number] = each.change(stage=ENDED)
            break
    same = [each for each in marked if (each.iface, each.logical) == (old.iface, old.logical)]
    if not (down or all(each.stage == ENDED for each in same)):
        return tuple(marked)
    if kept:
        return tuple(
            each.change(stage=KEPT) if each.iface == old.iface else each for each in marked if each not in same
        )
    others = tuple(each for each in marked if each.iface != old.iface)
    return others if down or others else tuple(marked)


def are_over(passes: Iterable[Pass]) -> bool:
    """Whether ifupdown has taken down all of these passes: then they are in force only until their link is down."""
    return all(each.stage != UP for each in passes)


def find_conflict(passes: Iterable[Pass]) -> str:
    """If two stanzas want different firewalls, return a message about it; else an empty string.

    A pass that a later run of ifup is about to replace does not count.
    """
    written: dict[str, Pass] = {}
    for each in passes:
        if each.reached and "netconf-guard-backend" in each.options:
            written.setdefault(read_rules(each.options).backend, each)
    if len(written) < 2:
        return ""
    (one, first), (other, second) = list(written.items())[:2]
    return (
        f'netconf-guard-backend is "{one}" in {describe_pass(first)} and "{other}" in {describe_pass(second)}: '
        "expected the same in all stanzas of a device"
    )


def describe_pass(each: Pass) -> str:
    """Describe the stanza of a pass: ``the inet stanza of eth0``."""
    logical = each.logical or each.iface
    over = f", raised on {each.iface}" if logical != each.iface else ""
    return f"the {each.family} stanza of {logical}{over}"


def _name(each: Pass) -> tuple[str, str, str, bool]:
    """Return what must be equal if one pass replaces another.

    Stanzas with rules and stanzas with only evidence are counted separately: in the first run, a stanza with only
    evidence is not recorded if it comes first.
    """
    return each.iface, each.logical, each.family, has_rules([each])


def _find(passes: Sequence[Pass], new: Pass) -> int | None:
    for number, each in enumerate(passes):
        if _name(each) == _name(new) and each.run == new.run and dict(each.options) == dict(new.options):
            return number
    return None


def _note_run(passes: Sequence[Pass], new: Pass) -> tuple[Pass, ...]:
    """Mark the passes of the same logical interface that the run of `new` has not reached yet.

    Also mark those passes as up again over which wpa_action had raised another logical interface.
    """
    noted = []
    for each in passes:
        if each.iface == new.iface:
            if each.stage == KEPT:
                each = each.change(stage=UP)
            if each.logical == new.logical and each.run != new.run and each.reached:
                each = each.change(reached=False)
        noted.append(each)
    return tuple(noted)


def _share_stanza(one: Pass, other: Pass) -> bool:
    """Whether two passes may be of the same stanza.  ifupdown2 gives a list of families, and none in pre-up."""
    families = set(one.family.split(",")), set(other.family.split(","))
    return one.logical == other.logical and (
        bool(families[0] & families[1]) or "any" in families[0] | families[1]
    )
