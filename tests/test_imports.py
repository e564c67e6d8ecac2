"""Who may import whom: packages only from those before them in a list, and a few libraries through one door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "certseg"
ORDER = (
    "errors",
    "checks",
    "compute",
    "types",
    "metrics",
    "smoothing",
    "lipschitz",
    "patches",
    "datasets",
    "models",
    "attacks",
    "certifiers",
    "training",
    "bracket",
    "evaluation",
    "reporting",
    "pipeline",
    "__main__",
)
"""A package imports from those before it in this list."""
DOORS = {
    "hydra": {"pipeline"},
    "omegaconf": {"pipeline"},
    "wandb": {"reporting"},
    "mmseg": {"models", "datasets", "training"},
    "mmengine": {"models", "datasets", "training"},
    "mmcv": {"models", "datasets", "training"},
    "matplotlib": {"reporting"},
    "numba": {"compute"},
    "cv2": {"compute"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "certseg":
                yield from (f"certseg.{alias.name}" for alias in node.names if not alias.name.startswith("__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_import_directions(path):
    owner = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] in DOORS:
            assert owner in DOORS[parts[0]], f"{owner} may not import {parts[0]}"
        if parts[0] == "certseg" and len(parts) > 1 and parts[1] != owner and owner != "__init__":
            assert parts[1] in ORDER, f"{module} has no level"
            assert ORDER.index(parts[1]) < ORDER.index(owner), f"{owner} imports {module}, which is not below it"


def test_every_module_has_a_level():
    owners = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert owners - {"__init__"} <= set(ORDER)
    assert not [path for path in FILES if "utils" in path.parts or path.stem == "utils"]
