"""Files of configurations that are read once give what is written in them."""

import os

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException


def composed(folder):
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose("config")


def test_what_was_read_is_not_changed_by_whom_it_was_given_to(tmp_path):
    (tmp_path / "config.yaml").write_text("part: {value: 1}\n")
    composed(tmp_path).part.value = 2
    assert composed(tmp_path) == {"part": {"value": 1}}


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("value: 1\n")
    assert composed(tmp_path).value == 1
    file.write_text("value: 2\n")
    os.utime(file, ns=(0, 0))
    assert composed(tmp_path).value == 2
    file.unlink()
    with pytest.raises(MissingConfigException):
        composed(tmp_path)


def test_a_file_of_the_same_size_and_time_is_read_once(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("value: 1\n")
    before = file.stat().st_mtime_ns
    assert composed(tmp_path).value == 1
    file.write_text("value: 2\n")
    os.utime(file, ns=(before, before))
    assert composed(tmp_path).value == 1
