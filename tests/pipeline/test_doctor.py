"""``certseg doctor``: what it finds, what it calls broken, what it does not look at."""

import sys

import pytest
from support.pipeline_runs import readme_commands

from certseg.errors import ConfigError
from certseg.pipeline import doctor


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to call from, and no account of Weights & Biases."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(doctor, "_COMPUTES", {"torch": "torch", "numpy": "numpy"})  # others take seconds to load
    return tmp_path


def told(capsys, *words):
    """The exit status and the lines of the report."""
    status = doctor.main(words)
    return status, capsys.readouterr().out.splitlines()


def line(lines, topic):
    return next(entry for entry in lines if entry.startswith(f"{topic} "))


def test_a_sound_machine(elsewhere, capsys):
    assert "certseg doctor" in readme_commands()
    status, lines = told(capsys)
    assert status == 0
    assert lines[-1].strip() == "nothing is broken"
    assert "BROKEN" not in "".join(lines)
    assert "torch 2." in line(lines, "libraries")
    assert "opencv" in line(lines, "OpenCV")
    assert "processors" in line(lines, "threads")
    assert "GiB free for outputs" in line(lines, "disk")
    assert line(lines, "data sets").endswith("streets (built in)")
    assert "not logged in" in line(lines, "W&B")
    assert not list(elsewhere.iterdir()), "the doctor writes nothing"


def test_data_sets_are_looked_for_where_the_caller_is(elsewhere, capsys):
    (elsewhere / "data" / "camvid").mkdir(parents=True)
    _, lines = told(capsys)
    assert "camvid (data/camvid)" in line(lines, "data sets")
    missing = next(entry for entry in lines if "not here:" in entry)
    assert "camvid" not in missing
    assert "cityscapes (data/cityscapes)" in missing


def test_a_library_that_is_missing_or_does_not_load_is_broken(elsewhere, capsys, monkeypatch):
    (elsewhere / "halves.py").write_text("raise OSError('half of it\\nis missing')\n")
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.setattr(doctor, "_COMPUTES", {"numpy": "halves", "no-such-distribution": "nothing"})
    status, lines = told(capsys)
    assert status == 1
    assert "BROKEN: does not load: half of it is missing" in line(lines, "numpy")
    assert "no-such-distributionBROKEN: is not installed" in "".join(lines).replace(" B", "B")
    assert lines[-1].strip() == "2 broken"


@pytest.mark.parametrize("builds", [(), ("opencv-python",), ("opencv-python", "opencv-python-headless")], ids=str)
def test_opencv_that_loads_is_not_broken_and_two_builds_are_told(builds, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "4.13.0" if name in builds else None)
    finding = doctor._opencv()
    assert not finding.is_broken
    assert ("overwrite" in finding.text) == (len(builds) == 2)
    assert all(f"{name} 4.13.0" in finding.text for name in builds)


def test_opencv_that_does_not_load_comes_with_its_remedy(elsewhere, monkeypatch):
    (elsewhere / "cv2.py").write_text('raise ImportError("libGL.so.1: cannot open shared object file")\n')
    monkeypatch.syspath_prepend(elsewhere)
    for name in ("cv2", "certseg.compute.opencv"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    finding = doctor._opencv()
    assert finding.is_broken
    assert "libGL.so.1" in finding.text
    assert "pip uninstall -y opencv-python opencv-python-headless" in finding.text


def test_a_folder_of_results_that_cannot_be_written_is_broken(elsewhere, capsys):
    (elsewhere / "file").write_text("")
    status, lines = told(capsys, "output=file/outputs")
    assert status == 1
    assert "cannot write results to file/outputs" in line(lines, "disk")
    status, lines = told(capsys, "output=not/yet/there")
    assert status == 0
    assert "free for not/yet/there" in line(lines, "disk")


def test_where_weights_and_biases_would_find_a_key(elsewhere, capsys, monkeypatch):
    (elsewhere / "netrc").write_text("machine tracking.example:8080 login user password secret\n")
    (elsewhere / "netrc").chmod(0o600)
    assert "not logged in at api.wandb.ai" in line(told(capsys)[1], "W&B")
    monkeypatch.setenv("WANDB_BASE_URL", "http://tracking.example:8080")
    assert "a key for tracking.example:8080 in" in line(told(capsys)[1], "W&B")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    lines = told(capsys)[1]
    assert "a key in WANDB_API_KEY" in line(lines, "W&B")
    assert "secret" not in "".join(lines)


@pytest.mark.parametrize("word", ["outputs=x", "output=", "x", "--verbose"])
def test_words_it_does_not_know(word):
    with pytest.raises(ConfigError, match="output=FOLDER"):
        doctor.main([word])
