"""Configuration files are read once: tests compose many hundred times from the same few files."""

import pickle
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
    Plugins.instance()  # which registers the classes that read files; an import of their modules gives other ones
    known = {}

    def remembering(kind):
        read = kind.load_config

        def remembered(source, config_path):
            state = _state(source, config_path)
            if state is None:
                return read(source, config_path)
            key = (source.path, source.provider, config_path, state)
            if key not in known:
                known[key] = pickle.dumps(read(source, config_path))
            return pickle.loads(known[key])

        return remembered

    with pytest.MonkeyPatch.context() as patch:
        for scheme in ("file", "pkg"):
            kind = SourcesRegistry.instance().resolve(scheme)
            patch.setattr(kind, "load_config", remembering(kind))
        yield


def _state(source, config_path):
    """What tells whether a file is still the one that was read, or None where that is not known."""
    if source.scheme() == "pkg":
        return "installed" if source.path.split(".")[0].startswith("hydra") else None  # nobody edits those of Hydra
    file = Path(source.path, source._normalize_file_name(config_path))
    if not file.is_file():
        return None
    state = file.stat()
    return state.st_mtime_ns, state.st_size
