"""Every module can be imported by itself without a warning, and the examples in its docstrings are true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "certseg"
PARTS = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))]
MODULES = [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in PARTS if parts[-1] != "__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    torch.manual_seed(0)
    assert doctest.testmod(import_module(name)).failed == 0


def test_examples_are_found():
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(found.examples) for name in MODULES for found in finder.find(import_module(name))) > 50
