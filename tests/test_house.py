"""Rules of the house that no linter knows: checks are silenced with a reason, and a name stands for one thing."""

import ast
import re
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "certseg"
FILES = [path for folder in (PACKAGE, ROOT / "tests", ROOT / "scripts") for path in sorted(folder.rglob("*.py"))]
SILENCED = re.compile(r"#\s*(?:(?:fmt|mypy|ruff)\s*:|type\s*:\s*ignore|noqa)", re.IGNORECASE)
WITH_A_REASON = re.compile(r"# noqa: [A-Z]+\d+(?:, [A-Z]+\d+)* - \w+ \w+|# type: ignore\[[a-z-]+\]  # \w+ \w+")
SHARED_STEMS = {
    "__init__": "the face of each package",
    "inpainting": "the package of inpainters, and how they are trained",
    "lipschitz": "the package of Lipschitz networks and their audits, their certifier, and how they are trained",
    "minimum_norm": "the package of minimum-norm attacks, and the stage that runs them",
}
"""Names that more than one module or package has, all of them about the same thing seen from different rooms."""


def unexplained(comment):
    """Whether a comment silences a check without a reason in words."""
    return SILENCED.search(comment) is not None and WITH_A_REASON.search(comment) is None


def comments(path):
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def test_checks_are_silenced_with_a_reason():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {comment}"
        for path in FILES
        for number, comment in comments(path)
        if unexplained(comment)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("comment", "is_unexplained"),
    [
        ("# fmt: skip", True),
        ("# fmt: off", True),
        ("# noqa", True),
        ("# NOQA:E501", True),
        ("# noqa: E501", True),
        ("# noqa: E501 -", True),
        ("# noqa: E501, F401 - both are said", False),
        ("# ruff: noqa", True),
        ("# mypy: ignore-errors", True),
        ("# type: ignore", True),
        ("# type: ignore[arg-type]", True),
        ("# type: ignore  # it is right", True),
        ("# type: ignore[arg-type]  # it is right", False),
        ("# the type is ignored", False),
    ],
)
def test_what_a_reason_is(comment, is_unexplained):
    assert unexplained(comment) is is_unexplained


def test_a_module_name_stands_for_one_thing():
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        places[path.stem].append(str(path.relative_to(PACKAGE)))
        if path.stem == "__init__" and path.parent != PACKAGE:
            places[path.parent.name].append(str(path.parent.relative_to(PACKAGE)))
    shared = {name: found for name, found in places.items() if len(found) > 1}
    assert shared.keys() == SHARED_STEMS.keys(), shared


def test_a_public_class_name_stands_for_one_class():
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert not {name: found for name, found in places.items() if len(found) > 1}
