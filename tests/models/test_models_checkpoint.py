"""Checkpoints: round trips, files of mmsegmentation, and files that try to do harm."""

import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from certseg.errors import CheckpointError
from certseg.models import load_checkpoint, save_checkpoint

META = {"classes": ["road", "sky"], "epoch": 3, "score": 0.5, "nested": {"none": None}}


class Head(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv_seg = torch.nn.Conv2d(4, num_classes, 1)


class Network(torch.nn.Module):
    """Named like an mmsegmentation network."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.decode_head = Head(num_classes)


class Wrapper(torch.nn.Module):
    """Named like the adapter: the network is an attribute."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.network = Network(num_classes)


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_round_trip(tmp_path):
    first, second = Wrapper(), Wrapper()
    first.network.backbone[1].running_mean.uniform_()
    path = tmp_path / "new" / "folder" / "checkpoint.pth"
    save_checkpoint(path, first, META)
    assert not same(first, second)
    assert load_checkpoint(second, path) == META
    assert same(first, second)
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pth"]


def test_the_file_holds_plain_values_only(tmp_path):
    save_checkpoint(tmp_path / "c.pth", Wrapper(), {"shape": (1, 2)})
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    assert set(content) == {"format", "meta", "state_dict"}
    assert content["format"] == "certseg/1"
    assert content["meta"] == {"shape": [1, 2]}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    first = Wrapper()
    save_checkpoint(path, first, {})

    def interrupted(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(CheckpointError, match="disk full"):
        save_checkpoint(path, Wrapper(), {})
    monkeypatch.undo()
    second = Wrapper()
    load_checkpoint(second, path)
    assert same(first, second)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pth"]


@pytest.mark.parametrize("meta", [{"tensor": torch.zeros(1)}, {"set": {1}}])
def test_meta_must_be_json(tmp_path, meta):
    with pytest.raises(CheckpointError, match="not plain JSON"):
        save_checkpoint(tmp_path / "c.pth", Wrapper(), meta)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoint_of_mmsegmentation(tmp_path, prefix):
    source, target = Network(), Wrapper()
    weights = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": weights, "meta": {"epoch": 1}}, tmp_path / "mmseg.pth")
    assert load_checkpoint(target, tmp_path / "mmseg.pth") == {}
    assert same(source, target.network)


def test_old_files_without_batch_counters_fit(tmp_path):
    weights = {key: value for key, value in Network().state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": weights}, tmp_path / "old.pth")
    load_checkpoint(Wrapper(), tmp_path / "old.pth")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    crater = tmp_path / "crater"
    target = Wrapper()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    path = tmp_path / "bomb.pth"
    torch.save({"state_dict": Network().state_dict(), "meta": Bomb(crater)}, path)
    with pytest.raises(CheckpointError, match=r"model\.trust_checkpoint=true"):
        load_checkpoint(target, path)
    assert not crater.exists()
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())
    load_checkpoint(target, path, trust=True)
    assert crater.is_dir()  # so the file was a real one


def test_code_in_a_plain_pickle_does_not_run(tmp_path):
    crater = tmp_path / "crater"
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps(Bomb(crater)))
    with pytest.raises(CheckpointError):
        load_checkpoint(Wrapper(), path)
    assert not crater.exists()


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated", b"\x80\x02"])
def test_corrupt_files(tmp_path, content, trust):
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth is corrupt"):
        load_checkpoint(Wrapper(), path, trust=trust)


def test_truncated_file(tmp_path):
    path = tmp_path / "c.pth"
    save_checkpoint(path, Wrapper(), META)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="corrupt"):
        load_checkpoint(Wrapper(), path)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(Wrapper(), tmp_path / "none.pth")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"optimizer": {"lr": 0.1}}, {"state_dict": 3}])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint|holds no weights"):
        load_checkpoint(Wrapper(), tmp_path / "c.pth")


def test_another_number_of_classes(tmp_path):
    save_checkpoint(tmp_path / "c.pth", Wrapper(19), {})
    target = Wrapper(11)
    before = target.network.backbone[0].weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, tmp_path / "c.pth")
    message = str(caught.value)
    assert re.search(r"11 classes.*conv_seg\.weight \(19, 4, 1, 1\) instead of \(11, 4, 1, 1\).*19 classes", message)
    assert torch.equal(target.network.backbone[0].weight, before)


def test_another_architecture(tmp_path):
    save_checkpoint(tmp_path / "c.pth", torch.nn.Linear(2, 2), {})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(Wrapper(), tmp_path / "c.pth")
    message = str(caught.value)
    assert "8 missing (network.backbone.0.weight, network.backbone.0.bias, network.backbone.1.weight, ...)" in message
    assert "2 unexpected (weight, bias)" in message


PREFIXES = ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net.", "model.network."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_training_loops_are_taken_off_and_said(tmp_path, prefix):
    source, target, said = Network(), Wrapper(), []
    torch.save({f"{prefix}{key}": value for key, value in source.state_dict().items()}, tmp_path / "c.pth")
    load_checkpoint(target, tmp_path / "c.pth", tell=said.append)
    assert same(source, target.network)
    own = prefix.removesuffix("network.")  # the adapter's own is no wrapper
    assert said == [f"Read {tmp_path}/c.pth: took {own!r} from the front of their names"]


def test_nothing_is_said_where_nothing_was_changed(tmp_path):
    said = []
    save_checkpoint(tmp_path / "own.pth", Wrapper(), {})
    torch.save(Network().state_dict(), tmp_path / "bare.pth")
    for name in ("own.pth", "bare.pth"):
        load_checkpoint(Wrapper(), tmp_path / name, tell=said.append)
    assert not said


@pytest.mark.parametrize("group", ["state_dict", "model_state_dict", "model", "ema", "state_dict_ema", "model_ema"])
def test_state_dicts_under_their_usual_names(tmp_path, group):
    source, target, said = Network(), Wrapper(), []
    torch.save({"epoch": 3, group: source.state_dict(), "optimizer": {"lr": 0.1}}, tmp_path / "c.pth")
    load_checkpoint(target, tmp_path / "c.pth", tell=said.append)
    assert same(source, target.network)
    assert said == ([f"Read {tmp_path}/c.pth: took the weights under {group!r}"] if "ema" in group else [])


def test_what_a_loop_keeps_beside_the_network_is_left_out_and_said(tmp_path):
    source, target, said = Network(), Wrapper(), []
    weights = {f"model.{key}": value for key, value in source.state_dict().items()} | {"loss.weight": torch.ones(2)}
    torch.save({"state_dict": weights}, tmp_path / "c.pth")
    load_checkpoint(target, tmp_path / "c.pth", tell=said.append)
    assert same(source, target.network)
    assert said[0].endswith("took 'model.' from the front of their names, left out 1 others (loss.weight)")


def test_a_network_whose_own_names_look_like_a_wrappers(tmp_path):
    source, target = (torch.nn.ModuleDict({"model": torch.nn.ModuleDict({"net": torch.nn.Linear(2, 2)})}) for _ in "ab")
    torch.save(source.state_dict(), tmp_path / "c.pth")
    load_checkpoint(target, tmp_path / "c.pth")
    assert same(source, target)


def test_safetensors(tmp_path):
    source, target = Network(), Wrapper()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    load_checkpoint(target, tmp_path / "model.safetensors")
    assert same(source, target.network)
    (tmp_path / "cut").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="corrupt"):
        load_checkpoint(Wrapper(), tmp_path / "cut")


@pytest.mark.parametrize("content", [lambda n: n, lambda n: {"model": n, "epoch": 1}], ids=["alone", "in a dictionary"])
def test_a_pickled_network_needs_trust(tmp_path, content):
    source, target = Network(), Wrapper()
    torch.save(content(source), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"model\.trust_checkpoint=true"):
        load_checkpoint(target, tmp_path / "c.pth")
    load_checkpoint(target, tmp_path / "c.pth", trust=True)
    assert same(source, target.network)


@pytest.mark.parametrize("trust", [False, True])
def test_whole_networks_of_other_forms_name_their_model(tmp_path, trust):
    torch.jit.script(torch.nn.Conv2d(3, 2, 1)).save(str(tmp_path / "scripted.pt"))
    with pytest.raises(CheckpointError, match=r"TorchScript.*model=torchscript model\.file="):
        load_checkpoint(Wrapper(), tmp_path / "scripted.pt", trust=trust)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch\x3a\x00")
    with pytest.raises(CheckpointError, match=r"ONNX.*model=onnx model\.file="):
        load_checkpoint(Wrapper(), tmp_path / "net.onnx", trust=trust)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda w: {"other.weight": torch.ones(2)}, "Not one name is the model's"),
        (lambda w: {key: w[key] for key in list(w)[:3]}, "lacks a part of the model"),
        (lambda w: {**w, "extra": torch.ones(2)}, "its layers are others"),
        (lambda w: {**w, "backbone.0.weight": torch.ones(2)}, "their sizes or classes are others"),
    ],
)
def test_the_remedy_fits_what_is_wrong(tmp_path, change, remedy):
    torch.save(change(Network().state_dict()), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=remedy):
        load_checkpoint(Wrapper(), tmp_path / "c.pth")


def test_of_several_state_dicts_it_is_said_which_was_taken(tmp_path):
    source, other, target, said = Network(), Network(), Wrapper(), []
    torch.save({"state_dict": source.state_dict(), "state_dict_ema": other.state_dict()}, tmp_path / "c.pth")
    load_checkpoint(target, tmp_path / "c.pth", tell=said.append)
    assert same(source, target.network)
    assert said == [f"Read {tmp_path}/c.pth: took the weights under 'state_dict', not those under 'state_dict_ema'"]


def test_of_two_networks_in_one_file_none_is_guessed(tmp_path):
    source, target = Network(), Wrapper()
    weights = {f"{name}.{key}": value for name in ("model", "net") for key, value in source.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"several networks of these names.*'model\.', 'net\.'"):
        load_checkpoint(target, tmp_path / "c.pth")
