"""What was seen of a network, written down and read again; and whatever else may stand where it should."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from written import list_seen
from many import MANY

from netconf_hooks.commands.recording import format_observation, parse_observation
from netconf_hooks.observation import Answer, ENCRYPTED, OPEN, Observation
from netconf_hooks.stanzas.rules import TESTS

answers = st.fixed_dictionaries(
    {},
    optional={
        key: st.builds(
            Answer, st.lists(list_seen(key), max_size=2).map(tuple), st.booleans(), st.sampled_from(["", "\x1b\n"])
        )
        for key in TESTS if not TESTS[key].asked
    },
)  # fmt: skip


@given(answers, st.booleans(), st.sampled_from(["", OPEN, ENCRYPTED]))
def test_what_is_written_reads_as_the_same(answers, routable, wireless):
    observation = Observation("eth0:1", 0, answers, routable, wireless)
    assert parse_observation(format_observation(observation).encode()) == observation


def test_what_somebody_writes_by_hand_is_read_as_a_test_is():
    seen = {"gateway-mac": {"values": ["52-54-00-0A-00-01", "rubbish"]}, "gateway": {"values": ["FE80:0::1"]}}
    text = json.dumps({"interface": "eth0", "routable": False, "seen": seen, "more": 1})
    answers = parse_observation(text.encode()).answers
    assert answers["gateway-mac"].values == ("52:54:00:0a:00:01", "rubbish")
    assert answers["gateway"].values == ("fe80::1",)


def read_or_refuse(data):
    """Return what data is read as, None where it is refused as it should be."""
    try:
        return parse_observation(data)
    except ValueError as error:
        assert str(error)
        return None


@given(st.binary(max_size=300))
@settings(max_examples=MANY)
def test_rubbish_is_refused(data):
    assert read_or_refuse(data) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(st.characters(), max_size=8) | st.sampled_from(["\ud800", "\0", "*.x", "/", "-l", "192.0.2.1/24"])
members = st.fixed_dictionaries(
    {"values": st.lists(texts, max_size=3) | json_values},
    optional={"problem": json_values, "pending": st.booleans() | json_values, "refuted": st.lists(texts) | json_values},
)


@given(
    st.fixed_dictionaries({
        "interface": texts | st.just("eth0") | json_values,
        "routable": st.booleans() | json_values,
        "wireless": st.sampled_from([None, OPEN]) | json_values,
        "seen": st.dictionaries(st.sampled_from(sorted(TESTS)), members | json_values, max_size=3) | json_values,
    })
)  # fmt: skip
@settings(max_examples=MANY)
def test_hostile_members_are_read_or_refused(written):
    observation = read_or_refuse(json.dumps(written).encode())
    if observation is not None:
        for key, answer in observation.answers.items():
            assert all(isinstance(value, str) for value in (*answer.values, *answer.refuted))
            assert key in TESTS
