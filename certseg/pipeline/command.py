"""The command ``certseg``: one function behind the console script, ``python -m certseg`` and ``python run.py``.

Nothing that takes long is imported before it is needed, so that ``--help`` and ``--cfg`` answer at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import hydra
from omegaconf import DictConfig

from certseg.errors import CertsegError, ConfigError
from certseg.pipeline.config_folders import config_directory, own_config_folders

SUBCOMMANDS = {"doctor": "certseg.pipeline.doctor"}
"""Commands that are no run, by name: the module of each has a ``main`` that takes the words after the name and returns
the exit status."""


@hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
def _run(cfg: DictConfig) -> None:
    """Hand the configuration that Hydra composed to the pipeline."""
    from certseg.pipeline.console import explain

    try:
        from certseg.pipeline.main import run_job
    except CertsegError as error:  # a library that does not load; said here, for Hydra would add a line of its own
        sys.exit(explain(error))
    run_job(cfg)


def main() -> int:
    """Do what the command line says.

    Returns:
        The exit status: 0; 1 after a defect of the program or where the doctor finds something broken; 2 for what a
        user can mend; 130 after an interruption.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # threads that spin for long stall a machine that is shared
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach explain() below instead of a stack trace
    words = sys.argv[1:]
    _search_own_folders(words)
    try:
        if words and _is_subcommand(words[0]):
            return _subcommand(words[0], words[1:])
        if nameless := [word for word in words if word.lstrip("+~").startswith("=")]:
            raise ConfigError("A setting has no name", expected="name=value", received=nameless[0])
        _run()
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last image or checkpoint that was kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        from certseg.pipeline.console import explain

        return explain(error)
    return 0


def _search_own_folders(words: list[str]) -> None:
    """Let ``_target_`` name what lies in the working directory, or beside configs of one's own (``--config-dir``), here
    and in the processes that launchers start. Installed packages come first."""
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for folder in (str(part.resolve()) for part in (Path(), *own_config_folders(words))):
        if folder not in sys.path:
            sys.path.append(folder)
        if folder not in known:
            known.append(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in known if part)


def _is_subcommand(word: str) -> bool:
    """Whether a command line's first word is neither an option nor a setting."""
    return "=" not in word and word[:1] not in ("-", "+", "~")


def _subcommand(name: str, words: list[str]) -> int:
    if name not in SUBCOMMANDS:
        raise ConfigError(
            "certseg has no such command",
            expected=f"{', '.join(SUBCOMMANDS)}, or settings such as attack=pgd_smoothed",
            received=name,
            remedy="Run certseg --help for what can be set",
        )
    status: int = import_module(SUBCOMMANDS[name]).main(words)
    return status
