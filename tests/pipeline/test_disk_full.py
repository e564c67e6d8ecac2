"""A disk without space: one line, and what was kept before is still there."""

import contextlib
import errno
import resource

import pytest
import torch
from support.pipeline_runs import SMALL, configuration, start, summaries

from certseg.errors import CheckpointError, ResultError
from certseg.models import load_checkpoint, save_checkpoint
from certseg.pipeline import console, run
from certseg.training.store import TrainingFolder

SMALLER = tuple(word for word in SMALL if not word.startswith("certifier."))


@contextlib.contextmanager
def files_of_at_most(size):
    """No file of this process grows beyond so many bytes: the system answers as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_training_on_a_full_disk_goes_on_when_there_is_space(tmp_path):
    cfg = configuration(tmp_path / "full", "certifier=none", "pictures=0", base=SMALLER)
    with files_of_at_most(200_000), pytest.raises(ResultError, match=r"Cannot write .*state"):
        run(cfg, tmp_path / "report")
    run(cfg, tmp_path / "report")
    run(configuration(tmp_path / "roomy", "certifier=none", "pictures=0", base=SMALLER), tmp_path / "other")
    assert summaries(tmp_path / "full") == summaries(tmp_path / "roomy")


def test_what_was_kept_before_is_kept(tmp_path):
    folder = TrainingFolder(tmp_path, {"a": 1})
    rest = {"seconds": 1.0, "resumed": 0, "segmenter": {}, "optimiser": {}, "schedulers": []}
    folder.write_state({"iteration": 1, **rest})
    with files_of_at_most(100_000), pytest.raises(ResultError, match="free space"):
        folder.write_state({"iteration": 2, **rest, "segmenter": {"large": torch.zeros(100_000)}})
    assert folder.read_state()["iteration"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_the_weights_at_the_end(tmp_path):
    network, larger = torch.nn.Linear(2, 2), torch.nn.Linear(200, 200)
    save_checkpoint(tmp_path / "model.pt", network, {})
    with files_of_at_most(100_000), pytest.raises(CheckpointError, match="free space"):
        save_checkpoint(tmp_path / "model.pt", larger, {})
    load_checkpoint(torch.nn.Linear(2, 2), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("number", "verb"),
    [(errno.ENOSPC, "write"), (errno.EDQUOT, "write"), (errno.EROFS, "write"), (errno.EACCES, "open")],
)
def test_whoever_uses_the_disk_is_one_line(number, verb, capsys):
    assert console.explain(OSError(number, "refused", "somewhere/report.md")) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: Cannot {verb} somewhere/report.md (refused).")
    assert len(printed.splitlines()) == 1


def test_other_errors_of_the_system_keep_their_stack_trace(capsys):
    assert console.explain(OSError(errno.EIO, "broken")) == 1
    assert capsys.readouterr().err.strip().endswith("OSError: [Errno 5] broken")


def test_a_folder_that_may_not_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    status, _, err = start(tmp_path / "file" / "below", "certifier=none", cwd=tmp_path, base=SMALLER).finish()
    assert status == 2
    assert len(err.strip().splitlines()) == 1
