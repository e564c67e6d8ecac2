"""Classes that are not certseg's own, as keys tell them: by import path and source, so that no result outlives a change
of the code that made it.

What lies in an installed distribution is told by its version. Anything else is told by a digest of its module's file
and of the files this imports from the same package, or, for a module without a package, from the same folder.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import pydoc
import sysconfig
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

from certseg.errors import ConfigError

_DIGITS = 16


def told_with_source(target: str) -> str:
    """The import path of a class or function, with what tells its source apart: ``mine.Net@5f1c...`` or
    ``torch.nn.Identity@torch 2.13.0``. What cannot be imported is told by its path: building it says why.

    Raises:
        ConfigError: the source cannot be read, so that a change of it would not be noticed.
    """
    module = _module(target)
    if module is None:
        return target
    path = _file(module.__name__, module)
    if path is None:
        raise ConfigError(
            f"The source of {target} cannot be read, so that a change of it would go unnoticed",
            expected="a class in a Python file",
            remedy="Put it into a module of its own, below the working directory or on PYTHONPATH",
        )
    installed = _distribution(module.__name__, path)
    return f"{target}@{installed or _digest(module.__name__, path)}"


def is_installed(target: str) -> bool:
    """Whether a class or function lies in an installed distribution, whose version tells its source."""
    module = _module(target)
    path = None if module is None else _file(module.__name__, module)
    return module is not None and path is not None and bool(_distribution(module.__name__, path))


def _module(target: str) -> ModuleType | None:
    """The module that defines a class or function; None where it cannot be imported."""
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return None
    return None if found is None else inspect.getmodule(found)


def _distribution(name: str, path: Path) -> str:
    """Name and version of the distribution that a file was installed with; empty for a file of one's own."""
    folders = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    if not any(folder in path.parents for folder in folders):
        return ""
    names = packages_distributions().get(name.partition(".")[0], ())
    return ", ".join(f"{found} {version(found)}" for found in sorted(set(names))) or sysconfig.get_python_version()


def _digest(name: str, path: Path) -> str:
    """Digest of a module's file and of those it imports from its own package or folder, directly or not."""
    waiting, seen = [(name, path)], {name: path}
    while waiting:
        importer, file = waiting.pop()
        for imported in _imports(importer, file):
            if imported in seen or not _is_near(imported, importer, file):
                continue
            found = _file(imported)
            if found is not None:
                seen[imported] = found
                waiting.append((imported, found))
    summed = hashlib.sha256()
    for module in sorted(seen):
        summed.update(module.encode() + b"\0" + seen[module].read_bytes() + b"\0")
    return summed.hexdigest()[:_DIGITS]


def _is_near(imported: str, importer: str, file: Path) -> bool:
    """Whether a module belongs to the package of its importer, or lies beside it where that has no package."""
    if "." in importer or file.name == "__init__.py":
        return imported.partition(".")[0] == importer.partition(".")[0]
    found = _file(imported.partition(".")[0])
    return found is not None and file.parent in (found.parent, found.parent.parent)


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


def _file(name: str, module: ModuleType | None = None) -> Path | None:
    """The Python file of a module, None where there is none."""
    origin = getattr(module, "__file__", None) if module is not None else None
    if origin is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        origin = None if spec is None else spec.origin
    path = Path(origin).resolve() if origin else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None
