"""The three doors to the one command, and what it answers to words it does not know."""

import os
import subprocess
import sys
import tomllib

import pytest
from support.pipeline_runs import ROOT

from certseg.pipeline import command

BROKEN_OPENCV = 'raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")\n'


def call(*words, cwd, path=(ROOT,), door=("-m", "certseg")):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, *door, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def test_the_three_doors_are_one_function(tmp_path):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"certseg": f"{command.main.__module__}:{command.main.__name__}"}
    text = (ROOT / "run.py").read_text()
    assert "from certseg.pipeline.command import main" in text
    assert len(text.splitlines()) < 30
    answers = [call("--cfg", "job", cwd=tmp_path, door=door) for door in (("-m", "certseg"), (ROOT / "run.py",))]
    assert answers[0] == answers[1]
    assert answers[0][::2] == (0, "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("doctr",), "no such command"),
        (("train", "attack=pgd"), "no such command"),
        (("doctor", "outputs=here"), "no such setting"),
        (("attack=pgd", "doctor"), "doctor"),
        (("--config-dir", "nowhere"), "nowhere"),
    ],
    ids=str,
)
def test_a_bad_command_line_is_one_line(words, told, tmp_path):
    status, out, err = call(*words, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_an_opencv_that_does_not_load_is_one_line_with_its_remedy(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cv2.py").write_text(BROKEN_OPENCV)
    status, _, err = call("certifier=none", cwd=tmp_path, path=(tmp_path / "broken", ROOT))
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "libGL.so.1" in err
    assert "opencv-python-headless" in err


def test_names_of_the_pipeline_are_found_late():
    import certseg.pipeline

    assert callable(certseg.pipeline.run)
    with pytest.raises(AttributeError, match="walk"):
        _ = certseg.pipeline.walk
