"""Means over images that have a figure, and sums by key."""

import math

from certseg.metrics.over_images import image_mean, sums


def test_images_without_the_figure_do_not_count():
    rows = [{"figures": {"accuracy": value}} for value in (0.25, None, math.nan, 0.75, math.inf)]
    assert image_mean(rows, "accuracy") == 0.5
    assert math.isnan(image_mean(rows[1:3], "accuracy"))
    assert math.isnan(image_mean([], "accuracy"))


def test_sums_keep_order_and_kind_of_numbers():
    total = sums([{"b": 1}, {}, {"a": 2, "b": 3}])
    assert list(total.items()) == [("b", 4), ("a", 2)]
    assert all(type(value) is int for value in total.values())
    assert sums([]) == {}
