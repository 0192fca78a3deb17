"""How a protocol is written: a value and its source on one line, as what differs from another protocol."""

from dataclasses import dataclass, field

import pytest

from transfer.protocol import Protocol, flatten, stated


@dataclass(frozen=True)
class Inner:
    size: int = 1
    shape: str = "square"


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float
    inner: Inner = Inner(size=5)
    other: Inner = field(default_factory=lambda: Inner(shape="round"))
    steps: int = stated(3, "a file")


BASE = Protocol(Outer).but("paper, table 1", rate=0.1)


def test_it_is_the_recipe_with_its_defaults():
    assert BASE.recipe == Outer(rate=0.1)
    assert BASE.sources == {
        "rate": "paper, table 1",
        "inner.size": "",
        "inner.shape": "",
        "other.size": "",
        "other.shape": "",
        "steps": "a file",
    }


def test_what_differs_is_said_with_its_source_and_the_base_stays():
    other = BASE.but("code", {"inner.size": 7}, rate=0.2).but("more code", steps=9)
    assert other.recipe == Outer(rate=0.2, inner=Inner(size=7), steps=9)
    assert other.recipe.inner.shape == "square"
    assert (other.sources["rate"], other.sources["inner.size"], other.sources["steps"]) == ("code", "code", "more code")
    assert BASE.recipe.rate == 0.1


def test_a_default_that_is_a_recipe_itself_is_kept_where_nothing_is_said_of_it():
    changed = BASE.but("code", {"other.size": 2, "inner.shape": "long"}).recipe
    assert changed.other == Inner(size=2, shape="round")
    assert changed.inner == Inner(size=5, shape="long")


@pytest.mark.parametrize(("name", "said"), [("size", "several size"), ("rates", "no rates")])
def test_a_name_must_be_that_of_one_value(name, said):
    with pytest.raises(TypeError, match=said):
        BASE.but("code", {name: 1})


def test_a_value_that_nobody_stated_is_missed():
    with pytest.raises(TypeError, match="rate"):
        _ = Protocol(Outer).recipe


def test_names_are_those_of_the_flat_recipe():
    assert list(BASE.sources) == list(flatten(BASE.recipe))
