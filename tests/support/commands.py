"""certseg's command in processes of their own, which are forked from one that has done the imports already."""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = ("certseg", "run.py")
"""``python -m certseg``, and the script of a checkout."""

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["support.preloaded"])


class Command:
    """A running command: what a test does with a process, and what that process printed.

    Only the imports of what certseg is built on are done before: working directory, environment, module search path,
    standard streams, exit status and everything the command imports of others' are the process's own.
    """

    def __init__(self, *words, cwd, door="certseg", path=(ROOT,)):
        """Start it.

        Args:
            words: of the command line, after the door's.
            cwd: the folder to start in.
            door: one of DOORS.
            path: what PYTHONPATH names.
        """
        assert door in DOORS
        self._streams = tempfile.TemporaryDirectory()
        self._files = [Path(self._streams.name) / name for name in ("stdout", "stderr")]
        environment = {**os.environ, "COLUMNS": "160", "PYTHONPATH": os.pathsep.join(map(str, path))}
        self._process = _FORKS.Process(
            target=_enter, args=(door, list(map(str, words)), str(cwd), environment, list(map(str, self._files)))
        )
        with pytest.MonkeyPatch.context() as patch:  # Python 3.11 does not tell the server where modules are found
            patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
            forkserver.ensure_running()
        self._process.start()

    def poll(self):
        """The exit status, or None while it runs."""
        return self._process.exitcode

    def kill(self):
        """Kill it (SIGKILL), wait until it is gone, and return what it had printed."""
        self._process.kill()
        return self.finish(timeout=60)

    def finish(self, timeout=300):
        """Wait for its end and return exit status, standard output and standard error."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
        printed = [file.read_text() if file.exists() else "" for file in self._files]
        self._process.close()
        self._streams.cleanup()
        assert status is not None, "\n".join([f"not finished after {timeout} s", *printed])
        return status, *printed


def _enter(door, words, cwd, environment, files):
    """Become the command."""
    assert "support.preloaded" in sys.modules, "the server, which passes over what it cannot import, lacks the imports"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream.fileno())
    libraries = [part for part in sys.path if Path(part).is_relative_to(sys.base_prefix) or "site-packages" in part]
    own = cwd if door == "certseg" else str(ROOT)
    sys.path[:] = [own, *environment["PYTHONPATH"].split(os.pathsep), *libraries]
    sys.argv = [door, *words]
    try:
        if door == "certseg":
            runpy.run_module("certseg", run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / door), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # the end of a forked process is none of Python's own
