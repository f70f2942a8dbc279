"""README's pictures: they show what the demo has printed, and nothing else."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.lab import pictures

ROOT = Path(__file__).parents[2]
# What `make demo` has printed, on Debian 12; `make pictures` writes it.
DEMO = ROOT / "tests/unit/fixtures/demo.txt"


@pytest.fixture
def visits():
    return pictures.read_visits(DEMO.read_text(encoding="utf-8"))


def test_what_the_demo_says_of_each_stop(visits):
    assert [(each.title, each.location, each.tunnels, each.guard, each.answers) for each in visits[:3]] == [
        ("Home", "home-lan", ("ipsec work",), "open", True),
        ("The office", "office-lan", (), "open", False),
        ("The cafe", "unknown", ("openvpn corp",), "closed", True),
    ]
    assert visits[2].explained[0] == "netconf-hooks explain eth0"


@pytest.mark.parametrize("name, draw", [("story", pictures.draw_story), ("explain", pictures.draw_explain)])
def test_the_pictures_are_those_of_the_demo(visits, name, draw):
    assert (ROOT / f"docs/pictures/{name}.svg").read_text(encoding="utf-8") == draw(visits), "sudo make pictures"


def list_texts(name):
    """Return the texts in a picture; it is XML that can be read."""
    tree = ElementTree.parse(ROOT / f"docs/pictures/{name}.svg")
    return [each.text for each in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_the_story_in_words(visits):
    texts = list_texts("story")
    for wanted in ("Home", "The office", "The cafe", "location: home-lan", "location: unknown", "tunnel: none",
                   "tunnel: openvpn corp", "guard: closed", "only the tunnel's packets leave"):  # fmt: skip
        assert wanted in texts
    assert texts.count("everything may leave") == 2


def test_the_terminal_shows_what_explain_printed(visits):
    command, *lines = list_texts("explain")
    assert command == "$ netconf-hooks explain eth0"
    assert lines == list(visits[2].explained[1:])
    printed = DEMO.read_text(encoding="utf-8")
    assert all(line in printed for line in lines)


def test_no_text_leaves_its_picture():
    """A character of a monospaced font is at most 0.61 of its size wide."""
    tree = ElementTree.parse(ROOT / "docs/pictures/explain.svg")
    width, height = map(int, tree.getroot().get("viewBox").split()[2:])
    for each in tree.iter("{http://www.w3.org/2000/svg}text"):
        assert 20 + 0.61 * 14 * len(each.text) < width
        assert int(each.get("y")) < height


@pytest.mark.parametrize("damage", [lambda text: text[:5000], lambda text: text.replace("All 6 stops", "5 of 6 stops")])
def test_a_demo_that_failed_gets_no_picture(tmp_path, capsys, damage):
    path = tmp_path / "demo.txt"
    path.write_text(damage(DEMO.read_text(encoding="utf-8")))
    assert pictures.main(str(path), str(tmp_path)) == 1
    assert capsys.readouterr().err == f"{path}: not the output of a demo that went well\n"
    assert not list(tmp_path.glob("*.svg"))


def test_what_is_printed_can_not_break_a_picture(visits):
    odd = visits[2]._replace(explained=("netconf-hooks explain eth0", "  <b> & \"x\""))
    drawn = pictures.draw_explain([odd])
    assert ElementTree.fromstring(drawn) is not None
    assert re.search("&lt;b&gt; &amp;", drawn)
