"""What a setting may be: extremes by name, the one sentence, and what is no integer although it looks like one."""

import math
from fractions import Fraction

import numpy as np
import pytest

from certseg.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_text,
    check_word,
    checked_counts,
    checked_numbers,
    checked_size,
    is_count,
    is_number,
    is_word,
    require,
)
from certseg.errors import ConfigError

NO_NUMBERS = [
    True,
    False,
    None,
    "1",
    "",
    b"1",
    [1],
    (1,),
    1j,
    Fraction(1, 2),
    np.int64(1),
    np.float32(1),
    np.array(1.0),
]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.0, math.nan, math.inf])
def test_no_integers(value):
    assert not is_count(value, -5, 5)
    with pytest.raises(ConfigError, match=r"^certifier\.n must be a positive integer\. Received: ") as caught:
        check_count("certifier.n", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, math.nan])
def test_no_numbers(value):
    assert not is_number(value)
    with pytest.raises(ConfigError, match=r"^certifier\.gain must be a number in \[-9, 9\]\. Received: ") as caught:
        check_number("certifier.gain", value, "[-9, 9]")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("least", "most", "inside", "outside", "words"),
    [
        (1, None, [1, 2, 10**400], [0, -1], "a positive integer"),
        (0, None, [0, 1], [-1], "a non-negative integer"),
        (2, None, [2, 3], [1, 0], "an integer of at least 2"),
        (1, 3, [1, 2, 3], [0, 4], "an integer from 1 to 3"),
        (0, 255, [0, 255], [-1, 256], "an integer from 0 to 255"),
    ],
)
def test_ends_of_counts(least, most, inside, outside, words):
    for value in inside:
        check_count("x", value, least, most)
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^x must be {words}\. Received: {value}\.$"):
            check_count("x", value, least, most)


@pytest.mark.parametrize(
    ("domain", "inside", "outside", "words"),
    [
        (
            "(0, 1]",
            [1, 1.0, math.nextafter(0, 1), np.float64(0.5)],
            [0, -0.0, math.nextafter(1, 2)],
            r"number in \(0, 1\]",
        ),
        ("[0, 1)", [0, 0.0, math.nextafter(1, 0)], [1, -1e-300], r"number in \[0, 1\)"),
        ("[1e-12, 1)", [1e-12], [9e-13], r"number in \[1e-12, 1\)"),
        ("[-1, 0.5]", [-1, 0.5], [-1.1, 0.6], r"number in \[-1, 0\.5\]"),
        ("(-inf, inf)", [0, 10**400, -1e308], [math.inf, -math.inf], "finite number"),
        ("(0, inf]", [math.inf], [-math.inf, 0], r"number in \(0, inf\]"),
    ],
)
def test_ends_of_domains(domain, inside, outside, words):
    assert all(is_number(value, domain) for value in inside)
    for value in outside:
        with pytest.raises(ConfigError, match=rf"^x must be a {words}\. Received: "):
            check_number("x", value, domain)


def test_half_lines_have_words_of_their_own():
    for domain, words, value in (("(0, inf)", "a positive number", 0), ("[0, inf)", "a number >= 0", -1)):
        for wrong in (value, math.inf):
            with pytest.raises(ConfigError, match=rf"^x must be {words}\. Received: "):
                check_number("x", wrong, domain)


@pytest.mark.parametrize("domain", ["", "0, 1", "(0,1)", "(0, 1", "positive", "(inf, 0)", "(0, one)"])
def test_a_mistaken_domain_is_the_programmers_error(domain):
    with pytest.raises(ValueError, match="is no interval"):
        is_number(0.5, domain)


def test_null_is_right_only_where_it_may_be():
    check_count("x", None, optional=True)
    check_number("x", None, "(0, 1)", optional=True)
    check_choice("x", None, ("a",), optional=True)
    check_text("x", None, "a name", optional=True)
    assert checked_size("x", None, optional=True) is None
    with pytest.raises(ConfigError, match=r"^x must be null or a positive integer"):
        check_count("x", 0, optional=True)
    with pytest.raises(ConfigError, match=r"^x must be null or a share in \(0, 1\)"):
        check_number("x", 1, "(0, 1)", what="a share", optional=True)
    with pytest.raises(ConfigError, match=r"^x must be null or \[height, width\]"):
        checked_size("x", [1], optional=True)
    for check in (check_flag, check_word, checked_size, check_count):
        with pytest.raises(ConfigError, match=r"Received: None"):
            check("x", None)


def test_flags_are_true_or_false():
    check_flag("x", True)
    check_flag("x", False)
    for value in (0, 1, "true", np.True_):
        with pytest.raises(ConfigError, match=r"^x must be true or false"):
            check_flag("x", value)


def test_choices_survive_what_no_dict_could_look_up():
    check_choice("x", "b", {"a": 1, "b": 2})
    for value in ("c", ["a"], {}, 0, None):
        with pytest.raises(ConfigError, match=r"^x must be a or b"):
            check_choice("x", value, {"a": 1, "b": 2})
    with pytest.raises(ConfigError, match=r"^x must be a, b or c\. Received: 'd'\. Do so\.$"):
        check_choice("x", "d", "abc", remedy="Do so")
    with pytest.raises(ConfigError, match=r"^x must be only\."):
        check_choice("x", "d", ("only",))


@pytest.mark.parametrize("value", ["", "..", ".a", "a/b", "a b", "a\n", "é", 3, None, ["a"]])
def test_words_that_no_folder_may_have(value):
    assert not is_word(value)
    with pytest.raises(ConfigError, match=r"^x must be a plain word.*the first a letter or digit"):
        check_word("x", value)


def test_words():
    for value in ("a", "3", "drs_e", "ResNet-50.v2"):
        check_word("x", value)


def test_texts():
    check_text("x", "a b", "a name")
    for value in ("", 3, None):
        with pytest.raises(ConfigError, match=r"^x must be a name"):
            check_text("x", value, "a name")


def test_lists():
    assert checked_counts("x", [1, 2]) == checked_counts("x", (1, 2)) == (1, 2)
    assert checked_counts("x", []) == ()
    numbers = checked_numbers("x", [1, 0.5], "(0, 1]")
    assert numbers == (1.0, 0.5)
    assert all(type(number) is float for number in numbers)
    assert checked_size("x", [4, 6]) == (4, 6)
    for value in ("12", 1, None, {1: 2}, [0], [True], [1.0], [[1]], np.arange(1, 3)):
        with pytest.raises(ConfigError, match=r"^x must be a list of positive integers"):
            checked_counts("x", value)
    for value in ("12", 1.0, None, [0.0], [True], ["1"], [math.nan], [1, math.inf]):
        with pytest.raises(ConfigError, match=r"^x must be a list of positive numbers"):
            checked_numbers("x", value, "(0, inf)")
    for value in ([4], [4, 6, 8], [4, 0], [4.0, 6], [True, 6], "46", 4, {4: 6}):
        with pytest.raises(ConfigError, match=r"^x must be \[height, width\] in pixels"):
            checked_size("x", value)


def test_require_says_what_is_expected():
    require("x", 3, "odd", True)
    with pytest.raises(ConfigError, match=r"^x must be odd\. Received: 4\. Add one\.$"):
        require("x", 4, "odd", False, remedy="Add one")
