"""Classes that are not certseg's own, as keys tell them: by import path and source, so that no result outlives a change
of the code that made it.

What lies in an installed distribution, or comes with Python, is told by its version. Anything else is told by a digest
of the files that its import reads and that are in no distribution: its own module, the packages around it, and what
these import, directly or not.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import platform
import pydoc
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

from certseg.errors import ConfigError

_DIGITS = 16


def told_with_source(target: str) -> str:
    """The import path of a class or function, with what tells its source apart: ``mine.Net@5f1c...`` or
    ``torch.nn.Identity@torch 2.13.0``. What does not exist is told by its path: building it says so.

    Raises:
        ConfigError: the source cannot be read, so that a change of it would not be noticed.
    """
    found = _located(target)
    if found is None:
        return target
    modules = {name for name in (_prefix(target), getattr(inspect.getmodule(found), "__name__", None)) if name}
    loose = {name for name in modules if not distribution(name)}
    if modules and not loose:
        return f"{target}@{', '.join(sorted({distribution(name) for name in modules}))}"
    files = _files(loose)
    if not loose or not all(name in files for name in loose):
        raise ConfigError(
            f"The source of {target} cannot be read, so that a change of it would go unnoticed",
            expected="a class in a Python file",
            remedy="Put it into a module of its own, below the working directory or on PYTHONPATH",
        )
    summed = hashlib.sha256()
    for name in sorted(files):
        summed.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return f"{target}@{summed.hexdigest()[:_DIGITS]}"


def _located(target: str) -> object | None:
    """What an import path leads to; None where it cannot be imported."""
    try:
        return pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return None


def _prefix(target: str) -> str | None:
    """The module that an import path itself names: the longest part of it that can be imported."""
    parts = target.split(".")
    names = (".".join(parts[:number]) for number in range(len(parts) - 1, 0, -1))
    return next((name for name in names if name in sys.modules or _origin(name) is not None), None)


def distribution(module: str) -> str:
    """Name and version of what a module was installed with, Python itself included; empty for a file of one's own."""
    origin = _origin(module)
    if module in sys.builtin_module_names or origin in ("built-in", "frozen"):
        return f"Python {platform.python_version()}"
    if origin is None:
        return ""
    parents = Path(origin).resolve().parents
    if any(Path(sysconfig.get_path(kind)).resolve() in parents for kind in ("purelib", "platlib")):
        names = packages_distributions().get(module.partition(".")[0], ())
        return ", ".join(f"{found} {version(found)}" for found in sorted(set(names)))
    if Path(sysconfig.get_path("stdlib")).resolve() in parents:
        return f"Python {platform.python_version()}"
    return ""


def _files(modules: set[str]) -> dict[str, Path]:
    """The files of modules, of the packages around them and of what these import, by module name; without what is
    installed and without certseg."""
    waiting, files, seen = sorted(modules), dict[str, Path](), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] == "certseg":
            continue
        seen.add(name)
        package = name.rpartition(".")[0]
        if package:
            waiting.append(package)
        path = _file(name)
        if path is not None and not distribution(name):
            files[name] = path
            waiting.extend(_imports(name, path))
    return files


def _imports(name: str, path: Path) -> Iterator[str]:
    """The modules that a file may import, by their full names; names imported from a module are tried as modules."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package
            for _ in range(node.level - 1):
                parent = parent.rpartition(".")[0]
            base = ".".join(part for part in (parent if node.level else "", node.module or "") if part)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _file(name: str) -> Path | None:
    """The Python file of a module, None where there is none."""
    origin = _origin(name)
    path = None if origin is None else Path(origin).resolve()
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _origin(name: str) -> str | None:
    """Where a module comes from, as Python tells it; None where it is not found or has no file."""
    loaded = sys.modules.get(name)
    told = getattr(loaded, "__file__", None)  # a module need not have one
    if told is not None:
        return str(told)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return None if spec is None else spec.origin
