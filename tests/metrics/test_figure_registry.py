"""Full names of figures taken apart and put together, and what the registry accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certseg.errors import ConfigError
from certseg.metrics import FIGURES, NUMBER, SHARE, Estimator, Figure, FigureKey, FigureRegistry, Side, Unit, register
from certseg.metrics import known_figures as known
from certseg.metrics.figures import number

ESTIMATORS = st.sampled_from([None, *Estimator])
PARAMETERS = {
    None: st.none(),
    "{number}": st.floats(0, 1e9, allow_nan=False).map("{:g}".format),
    "{word}": st.sampled_from(["clean", "noise", "masked_copies"]),
    "{name}": st.sampled_from(["lesion", "traffic light", "wall-other", "a/b", "recall@x"]),
}


@st.composite
def keys(draw):
    figure = draw(st.sampled_from(list(FIGURES)))
    return FigureKey(figure, draw(PARAMETERS[figure.placeholder]), draw(ESTIMATORS))


@given(keys())
def test_a_key_is_read_from_its_own_text(key):
    assert FIGURES.key(str(key)) == key
    assert key.heading
    assert "{" not in key.heading + key.meaning + key.name_in_words


@given(st.one_of(st.text(), st.lists(st.sampled_from(["/@{}", "a_0.e-{number}{word}miou", "pooled"]), max_size=6)))
def test_every_text_is_a_key_that_gives_it_back(text):
    text = "".join(text)
    key = FIGURES.key(text)
    assert str(key) == text
    assert key.figure.is_described == bool(key.meaning)
    assert key.figure.is_described or (key.figure.unit, key.figure.side) == (NUMBER, Side.NEITHER)


@given(st.text("abc@_", min_size=1, max_size=8), ESTIMATORS)
def test_the_estimator_of_a_stranger_is_known_and_nothing_else_is_guessed(name, estimator):
    key = FigureRegistry().key(name if estimator is None else f"{name}/{estimator.suffix}")
    assert key == FigureKey(Figure.undescribed(name), None, estimator)


def test_names_taken_apart():
    key = FIGURES.key("robustness@25/image_mean")
    assert (key.figure, key.parameter, key.estimator) == (known.ROBUSTNESS, "25", Estimator.IMAGE_MEAN)
    assert key.meaning == "radius below which less than 25 % of the labelled pixels change"
    assert FIGURES.key("level_12_share").parameter == "12"
    assert FIGURES.key("level_x_share").figure == Figure.undescribed("level_x_share")
    assert FIGURES.key("bracket/violations").figure is known.VIOLATIONS
    assert FIGURES.key("clean/miou/pooled").meaning == "mean intersection over union of clean images"
    assert FIGURES.key("certified/pixel_accuracy@0.25/pooled").figure.side is Side.LOWER
    assert known.ROBUSTNESS.parameter_in("robustness@75") == "75"
    assert known.ROBUSTNESS.parameter_in("norm@75") is None


def test_full_names_are_those_on_disk():
    assert known.CERTIFIED_ACCURACY.full_name(Estimator.IMAGE_MEAN) == "certified_accuracy/image_mean"
    assert known.ROBUSTNESS.full_name(Estimator.IMAGE_MEAN, "75") == "robustness@75/image_mean"
    for figure, parameter in ((known.ROBUSTNESS, None), (known.ROBUSTNESS, "a"), (known.MIOU, "1")):
        with pytest.raises(ConfigError, match=figure.name.split("@")[0]):
            figure.full_name(Estimator.POOLED, parameter)


def test_sides_of_the_bracket():
    lower = known.CERTIFIED_ACCURACY, known.COLLECTIVE_ACCURACY, known.WORST_MIOU, known.ROBUSTNESS
    assert {figure.side for figure in lower} == {Side.LOWER}
    assert {figure.side for figure in (known.ATTACKED_ACCURACY, known.ATTACKED_MIOU, known.NORM)} == {Side.UPPER}
    assert known.CERTIFIED_MIOU.side is known.MIOU.side is Side.ESTIMATE


def test_figures_of_one_column_have_one_place_and_unit():
    columns = {}
    for figure in FIGURES:
        key = FIGURES.key(figure.example)
        columns.setdefault(key.heading, set()).add((figure.order, figure.unit))
    shared = {heading: found for heading, found in columns.items() if len(found) > 1}
    assert shared == {}
    assert columns["accuracy"] == {(10, SHARE)}


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [(SHARE, 0.75, "75.0"), (NUMBER, 12345.0, "12345"), (NUMBER, 0.123456, "0.1235"), (Unit("mm", "mm", 10), 0.5, "5")],
)
def test_units(unit, value, text):
    assert unit.shown(value) == text


def test_a_number_has_no_exponent_where_that_reads_better():
    assert [number(value) for value in (123456.0, 1e12, 1e-6)] == ["123456", "1e+12", "1e-06"]


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": ""},
        {"name": "accuracy/pooled"},
        {"name": "a{number}b{number}"},
        {"name": "a{number}b{word}"},
        {"name": "a", "meaning": " "},
        {"name": "a", "heading": "a of {word}"},
        {"name": "a{number}", "meaning": "of {word}"},
    ],
    ids=str,
)
def test_figures_that_cannot_be_shown_are_refused(arguments):
    with pytest.raises(ConfigError, match="figure"):
        Figure(**({"meaning": "something"} | arguments))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("a{number}", "a1{number}"),
        ("a1{number}", "a{number}"),
        ("{word}/a", "clean/a"),
        ("clean/a", "{word}/a"),
    ],
)
def test_a_name_has_one_description(first, second):
    registry = FigureRegistry()
    figure = registry.register(Figure(first, "one"))
    assert registry.register(Figure(first, "one")) is figure
    with pytest.raises(ConfigError, match="described already"):
        registry.register(Figure(second, "another"))
    assert list(registry) == [figure]


def test_nobody_takes_a_name_of_certseg():
    with pytest.raises(ConfigError, match="described already"):
        register(Figure("certified_accuracy", "something else"))
    with pytest.raises(ConfigError, match="with a meaning"):
        register(Figure.undescribed("x"))
