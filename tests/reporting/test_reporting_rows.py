"""Rows and maps on disk: resume, kills, several writers, identities."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch

from certseg.errors import ResultError
from certseg.reporting import RowStore, read_json, read_rows, safe_name, write_json_atomic
from certseg.reporting.storage import load_arrays

IDENTITY = {"certifier": {"tau": 0.75, "n": 100}, "sizes": (1, 2)}


def row(image: str, value: float | None = 0.5, **changes) -> dict:
    return {
        "image": image,
        "figures": {"certified_accuracy": value},
        "counts": {"confusion": [[1, 2], [3, 4]]},
        "seconds": {"sampling": 0.25},
        "passes": {"forward": 110, "backward": 0},
        "flags": ["a"],
    } | changes


@pytest.fixture
def store(tmp_path):
    return RowStore(tmp_path / "segcertify-abc", identity=IDENTITY)


def test_rows_come_back_as_written_and_in_order(store):
    rows = [row(name) for name in ("b", "a/ü", "c")]
    for entry in rows:
        store.append(entry)
    assert list(store.read().values()) == rows
    assert list(RowStore(store.directory, identity=IDENTITY).read()) == ["b", "a/ü", "c"]


def test_a_store_without_rows_is_empty(store, tmp_path):
    assert store.read() == {}
    assert read_rows(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("cut", [1, 2, 40, 10_000])
def test_a_truncated_tail_is_dropped_and_never_glued_to_the_next_row(store, cut):
    path = store.directory / "rows.jsonl"
    store.append(row("a"))
    end = path.stat().st_size
    # Long enough that the fragment spans several of the blocks in which its start is looked for.
    store.append(row("b", counts={"long": list(range(40_000))}))
    with path.open("rb+") as file:
        file.truncate(max(end + 1, path.stat().st_size - cut))
    assert list(store.read()) == ["a"]
    again = RowStore(store.directory, identity=IDENTITY)
    again.append(row("c"))
    assert list(again.read()) == ["a", "c"]
    assert path.read_bytes().count(b"\n") == 2


def test_a_fragment_that_is_the_whole_file_is_dropped(store):
    (store.directory / "rows.jsonl").write_bytes(b'{"image": "a", "fig')
    assert store.read() == {}
    store.append(row("b"))
    assert list(store.read()) == ["b"]


@pytest.mark.parametrize("bad", ["not json", '{"image": "a"}', "[1]", '{"image": ""}', ""])
def test_a_corrupt_line_names_file_and_line(store, bad):
    for name in "ab":
        store.append(row(name))
    path = store.directory / "rows.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], bad, lines[1]]) + "\n")
    with pytest.raises(ResultError, match=r"rows\.jsonl, line 2,"):
        store.read()


def test_of_several_rows_of_one_image_the_last_wins(store):
    for name, value in (("a", 0.1), ("b", 0.2), ("a", 0.3)):
        store.append(row(name, value))
    assert {name: entry["figures"]["certified_accuracy"] for name, entry in store.read().items()} == {
        "a": 0.3,
        "b": 0.2,
    }


def test_nan_and_infinities_become_null(store):
    store.append(row("a", float("nan"), counts={"x": [1.0, float("inf")], "y": np.array([np.nan, 2.0])}))
    text = (store.directory / "rows.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    stored = store.read()["a"]
    assert stored["figures"] == {"certified_accuracy": None}
    assert stored["counts"] == {"x": [1.0, None], "y": [None, 2.0]}


def test_numpy_and_torch_values_become_plain_numbers(store):
    store.append(row("a", np.float64(0.5), counts={"n": np.int64(3), "t": torch.tensor([[1, 2]])}))
    assert store.read()["a"] == row("a", counts={"n": 3, "t": [[1, 2]]})


@pytest.mark.parametrize(
    "bad",
    [{"image": "a"}, row(""), row("a", flags="zero"), row("a", figures=[1]), row("a", counts={"x": object()}), [1]],
)
def test_a_row_of_another_form_is_refused_and_nothing_is_written(store, bad):
    with pytest.raises(ResultError):
        store.append(bad)
    assert (store.directory / "rows.jsonl").read_bytes() == b""


# Python 3.12 warns of forking a process with threads; the child here calls neither torch nor another threaded library.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")


def _append_many(directory, worker: int, count: int) -> None:
    store = RowStore(directory, identity=IDENTITY)
    for index in range(count):
        store.append(row(f"{worker}-{index}", counts={"filling": ["x" * 3000] * (index % 4)}))


@forks
def test_concurrent_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path / "s", worker, 40)) for worker in range(4)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        read_rows(tmp_path / "s")  # a reader in between never sees half a line as corrupt
        time.sleep(0.01)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert set(read_rows(tmp_path / "s")) == {f"{worker}-{index}" for worker in range(4) for index in range(40)}


@forks
def test_a_killed_writer_leaves_a_store_that_goes_on(tmp_path):
    worker = multiprocessing.get_context("fork").Process(target=_append_many, args=(tmp_path / "s", 0, 100_000))
    worker.start()
    while len(read_rows(tmp_path / "s")) < 5:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    done = read_rows(tmp_path / "s")
    store = RowStore(tmp_path / "s", identity=IDENTITY)
    store.append(row("after"))
    assert list(store.read()) == [*done, "after"]


def test_another_identity_is_refused_and_the_differences_named(store):
    with pytest.raises(ResultError) as caught:
        RowStore(store.directory, identity={"certifier": {"tau": 0.9, "n": 100}, "sizes": [1, 2], "seed": 3})
    assert "certifier.tau was 0.75 and is now 0.9" in str(caught.value)
    assert "seed was absent and is now 3" in str(caught.value)
    assert "n was" not in str(caught.value)
    assert "sizes" not in str(caught.value)
    assert read_json(store.directory / "identity.json") == {"certifier": {"tau": 0.75, "n": 100}, "sizes": [1, 2]}


def test_rows_without_identity_are_refused(store):
    store.append(row("a"))
    (store.directory / "identity.json").unlink()
    with pytest.raises(ResultError, match=r"identity\.json"):
        RowStore(store.directory, identity=IDENTITY)


@pytest.mark.parametrize("value", [float("nan"), [1.0, float("inf")], object()])
def test_an_identity_must_be_finite_json(tmp_path, value):
    with pytest.raises(ResultError):
        RowStore(tmp_path / "s", identity={"a": {"b": value}})


def test_a_directory_that_cannot_be_made_is_a_result_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="Cannot create"):
        RowStore(tmp_path / "file" / "s", identity={})


def test_maps_come_back_with_type_and_shape(store):
    rng = np.random.default_rng(0)
    arrays = {
        "classes": rng.integers(0, 256, (7, 11)),
        "negative": np.array([[-3, 200]], dtype=np.int32),
        "big": np.array([0, 2**63 - 1]),
        "certified": rng.random((7, 11)) > 0.5,
        "image": rng.random((3, 5, 7), dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.int64),
        "scalar": np.array(True),
    }
    assert not store.has_map("a/b")
    path = store.save_map("a/b", **arrays)
    assert store.has_map("a/b")
    assert path.parent == store.directory / "maps"
    loaded = store.load_map("a/b")
    assert loaded.keys() == arrays.keys()
    for key, array in arrays.items():
        assert loaded[key].dtype == array.dtype
        np.testing.assert_array_equal(loaded[key], array, strict=True)


def test_booleans_and_small_integers_are_stored_small(store):
    rng = np.random.default_rng(0)
    path = store.save_map("noise", mask=rng.random((256, 256)) > 0.5, classes=rng.integers(0, 256, (256, 256)))
    assert path.stat().st_size < 1.05 * 256 * 256 * (1 / 8 + 1) + 2000


def test_a_failed_save_keeps_the_old_map_and_leaves_no_temporary_file(store):
    store.save_map("a", x=np.arange(3))
    with pytest.raises(ResultError, match="cannot be stored"):
        store.save_map("a", x=np.array(["text"]))
    (store.directory / "maps" / "blocked.npz").mkdir()
    with pytest.raises(ResultError, match="Cannot write"):
        store.save_map("blocked", x=np.arange(3))
    np.testing.assert_array_equal(store.load_map("a")["x"], np.arange(3))
    assert sorted(os.listdir(store.directory / "maps")) == ["a.npz", "blocked.npz"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_a_missing_or_damaged_map_is_a_result_error(tmp_path, content):
    path = tmp_path / "map.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultError, match=r"map\.npz"):
        load_arrays(path)


def test_file_names_are_safe_and_different():
    names = ["a/b", "a=2Fb", "a_b", "a-b", "a b", "a\\b", "ä", "a%2Fb", "x" * 300, "x" * 299 + "y", "x" * 300 + "="]
    files = [safe_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(len(file) <= 200 and "/" not in file and "\\" not in file and file.isascii() for file in files)
    assert safe_name("0001TP_006690") == "0001TP_006690"


def test_json_is_written_atomically_in_a_stable_form(tmp_path):
    path = tmp_path / "new" / "summary.json"
    write_json_atomic(path, {"b": np.float32(0.5), "a": [float("nan")]})
    assert path.read_text() == '{\n "a": [\n  null\n ],\n "b": 0.5\n}\n'
    with pytest.raises(ResultError):
        write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [None], "b": 0.5}
    assert os.listdir(path.parent) == ["summary.json"]
