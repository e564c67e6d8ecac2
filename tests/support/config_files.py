"""Configuration files are read once: tests compose many hundred times from the same few files."""

import copy
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins


@contextmanager
def read_once():
    """Let Hydra get a copy of what it has read from a file already, as long as size and time of that file stay.

    What is composed of the files is composed each time, and commands in processes of their own read theirs.
    """
    Plugins.instance()  # which registers the class that reads files; an import of its module gives another one
    kind = SourcesRegistry.instance().resolve("file")
    read, known = kind.load_config, {}

    def remembered(source, config_path):
        file = Path(source.path, source._normalize_file_name(config_path))
        if not file.is_file():
            return read(source, config_path)
        state = file.stat()
        key = (source.path, source.provider, config_path, state.st_mtime_ns, state.st_size)
        if key not in known:
            known[key] = read(source, config_path)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load_config", remembered)
        yield
