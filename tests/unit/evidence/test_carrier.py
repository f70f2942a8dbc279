"""The test ``carrier``."""

import pytest

from netconf_hooks.evidence import Link
from netconf_hooks.evidence.carrier import observe
from netconf_hooks.observation import Answer


@pytest.mark.parametrize("index, carrier, answer", [
    (7, True, Answer(("yes",))),
    (7, False, Answer(("no",))),
    (0, False, Answer(problem="no such interface")),
])
def test_carrier(index, carrier, answer):
    assert observe(["carrier"], Link("eth0", "eth0", index, carrier, {}), 0.0) == {"carrier": answer}
