"""How errors read."""

import pytest

from certseg.errors import CertsegError


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"what": "It broke"}, "It broke."),
        ({"what": "It broke."}, "It broke."),
        ({"what": "It broke", "expected": "a, b, ..."}, "It broke. Expected: a, b, ..."),
        ({"what": "It broke", "received": ""}, "It broke. Received: ''."),
        ({"what": "It broke", "received": 0, "remedy": "Set a=..."}, "It broke. Received: 0. Set a=..."),
        ({"what": "It broke", "remedy": "Mend it."}, "It broke. Mend it."),
    ],
)
def test_sentences_end_once_and_ellipses_stay(arguments, text):
    assert str(CertsegError(arguments.pop("what"), **arguments)) == text
