import pytest

from netconf_hooks.record import Record


class Point(Record):
    __slots__ = ("x", "y")

    def __init__(self, x, y):
        self.x = x
        self.y = y


class Pixel(Point):
    __slots__ = ("x", "y")


def test_records_compare_by_type_and_value():
    assert Point(1, "a") == Point(1, "a")
    assert Point(1, "a") != Point(1, "b")
    assert Point(1, "a") != Point(2, "a")
    assert Point(1, "a") != Pixel(1, "a")
    assert Point(1, "a") != (1, "a")


def test_equal_records_are_one_in_a_set():
    assert {Point(1, "a"), Point(1, "a")} == {Point(1, "a")}
    assert len({Point(1, "a"), Point(1, "b")}) == 2


def test_a_record_shows_its_fields():
    assert repr(Point(1, "a")) == "Point(x=1, y='a')"


def test_a_record_has_no_other_fields():
    assert not hasattr(Point(1, 2), "__dict__")


def test_a_record_refuses_assignment():
    point = Point(1, "a")
    with pytest.raises(AttributeError, match=r"^Point\.x can't be changed"):
        point.x = 1
    with pytest.raises(AttributeError, match=r"^Point\.y can't be deleted"):
        del point.y
    with pytest.raises(AttributeError, match="'z'"):
        point.z = 1
    assert point == Point(1, "a")


def test_change_makes_another_record():
    pixel = Pixel(1, "a")
    assert pixel.change(y="b") == Pixel(1, "b")
    assert pixel.change() == pixel == Pixel(1, "a")


def test_change_refuses_fields_that_the_record_does_not_have():
    with pytest.raises(TypeError, match="^Point has no field z, w$"):
        Point(1, "a").change(z=1, y=2, w=3)
