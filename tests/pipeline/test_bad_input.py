"""Bad input: each has its one line and its status, and whatever lies on disk stays as it was."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from support.pipeline_runs import SMALL, configuration

from certseg.pipeline import console, run

ATTACKED = ("certifier=none", "attack=pgd", "attack.radius=0.1")
CASES = [
    # what is run
    ("seed=-1", "seed must be a non-negative integer"),
    ("seed=a", "seed must be"),
    ("seed=1.5", "seed must be"),
    ("seed=null", "seed must be"),
    ("seed=true", "seed must be"),
    ("pictures=-1", "pictures must be"),
    ("pictures=true", "pictures must be"),
    ("pictures=all", "pictures must be"),
    ("output=", "output must be a text"),
    ("output=null", "output must be a text"),
    ("output=3", "output must be a text"),
    ("expected=3", "expected must be"),
    ("variables=[absent]", "variables lists what is not set"),
    ("metrics.focus=car", "metrics.focus must be a list of names"),
    ("metrics.focus=[cra]", "Did you mean car?"),
    ("metrics.focus=[car,car]", "names a class twice"),
    ("metrics.focus=[car] input=.", "pictures without labels"),
    ("metrics.objects=car", "metrics.objects must be a list of names"),
    ("metrics.objects=[cra]", "Did you mean car?"),
    ("metrics.objects=[car,car]", "metrics.objects names a class twice"),
    ("metrics.objects=[car] input=.", "pictures without labels"),
    ("metrics.objects=[car] metrics.objects_share=2", "metrics.objects_share must be the share"),
    ("metrics.objects=[car] metrics.objects_sizes=[32]", "two rising sides"),
    ("metrics.objects_samples=50", "no objects to test"),
    ("metrics.objects=[car] metrics.objects_samples=5", "certify no object"),
    ("certifier=joint_class metrics.objects=[car] metrics.objects_samples=50", "a test that this certifier does not"),
    ("variables=3", "variables must be"),
    ("+foo=1", "Unknown setting of the run"),
    ("input=nowhere", "no picture at input=nowhere"),
    ("input=[a,b]", "input must be"),
    ("input=. attack=pgd", "certifies pictures and attacks none"),
    ("input=. certifier=none", "needs a certifier"),
    # groups and choices
    ("certifer=segcertify", "Did you mean certifier"),
    ("certifier=segcertfy", "Did you mean segcertify"),
    ("model=upernet_tny", "Did you mean upernet_tiny"),
    ("dataset=camvidd", "Did you mean camvid"),
    ("training=nois", "Did you mean noise"),
    ("attack=pgdd", "Did you mean pgd"),
    ("hardware=gpu", "Choices of hardware"),
    ("tracking=wandbb", "Did you mean wandb"),
    ("experiment=dmeo", "Did you mean demo"),
    ("certifier.tauu=1", "Did you mean certifier.tau"),
    ("dataset.lmit=1", "Did you mean dataset.limit"),
    ("~certifier", "certifier is not set"),
    ("~dataset", "dataset is not set"),
    ("~hardware", "hardware"),
    # data
    ("dataset.limit=0", "dataset.limit must be"),
    ("dataset.limit=-3", "dataset.limit must be"),
    ("dataset.limit=ten", "dataset.limit must be"),
    ("dataset.limit=1.5", "dataset.limit must be"),
    ("dataset.count=0", "dataset.count must be"),
    ("dataset.count=some", "dataset.count must be"),
    ("dataset.size=5", "dataset.size must be"),
    ("dataset.size=[128]", "dataset.size must be"),
    ("dataset.size=[0,3]", "dataset.size must be"),
    ("dataset.size=[a,b]", "dataset.size must be"),
    ("dataset.split=night", "no such split"),
    ("dataset.split=null", "no such split"),
    ("dataset.split=3", "dataset.split must be"),
    ("dataset.train_split=night", "no such split"),
    ("dataset.train_split=null", "nothing to train on"),
    ("dataset.on_error=go", "stop or skip"),
    ("dataset._target_=no.such.Set", "no.such.Set"),
    ("dataset._target_=torch.nn.ReLU", "ReLU"),
    ("dataset=camvid dataset.root=nowhere", "CamVid was not found"),
    ("dataset=camvid dataset.root=null", "dataset.root is not set"),
    ("dataset=camvid dataset.root=3", "dataset.root is not set"),
    ("dataset=cityscapes dataset.root=nowhere", "was not found"),
    ("certifier=none attack=pgd attack.norm=linf attack.radius=8", "Write attack.radius=8/255"),
    ("dataset=folder dataset.num_classes=2 dataset.name=a/b", "dataset.name must be a plain word"),
    ("dataset=folder dataset.num_classes=2 dataset.bands=[]", "dataset.bands cannot be read"),
    ("dataset=folder dataset.num_classes=2 dataset.window=[5,1]", "dataset.window cannot be read"),
    ("dataset=coco dataset.root=nowhere", "was not found"),
    ("dataset=folder dataset.root=.", "number of classes"),
    ("dataset=folder dataset.num_classes=0", "num_classes"),
    ("dataset=folder dataset.num_classes=300", "num_classes"),
    ("dataset=folder dataset.class_names=[a,a]", "a name twice"),
    ("dataset=folder dataset.class_names=[a,b] dataset.num_classes=3", "contradict"),
    ("dataset=folder dataset.num_classes=2 dataset.palette=[[0,0,0]]", "palette"),
    ("dataset=folder dataset.num_classes=2 dataset.ignore_index=300", "ignore_index"),
    ("dataset=folder dataset.num_classes=2 dataset.root=nowhere", "was not found"),
    # network
    ("model.checkpoint=nowhere.pt", "nowhere.pt"),
    ("model.checkpoint=.", "model.checkpoint"),
    ("model.checkpoint={broken}", "broken.pt"),
    ("model.checkpoint={text}", "text.pt"),
    ("model.checkpoint={empty}", "holds no weights"),
    ("model.checkpoint={other}", "does not fit the model"),
    ("model.checkpoint=3", "model.checkpoint must be"),
    ("model.trust_checkpoint=maybe", "trust_checkpoint must be"),
    ("model.map_classes=3", "map_classes must be"),
    ("model.scales=[]", "scales"),
    ("model.scales=[0]", "scales"),
    ("model.scales=half", "scales"),
    ("model.inference=slidee", "inference"),
    ("model.name=3", "model.name must be"),
    ("model._target_=no.such.Net", "no.such.Net"),
    ("model=mmseg", "model.config is not set"),
    ("model=mmseg model.config=upernet/nothing", "nothing"),
    ("model.backbone_checkpoint=nowhere.pt", "nowhere.pt"),
    # training
    ("training.iterations=0", "training.iterations must be"),
    ("training.iterations=1e3", "training.iterations must be"),
    ("training.batch_size=0", "training.batch_size must be"),
    ("training.crop=[0,0]", "training.crop"),
    ("training.crop=big", "training.crop"),
    ("training.lr=0", "training.lr must be"),
    ("training.lr=fast", "training.lr must be"),
    ("training.weight_decay=-1", "training.weight_decay must be"),
    ("training.warmup=2", "training.warmup must be"),
    ("training.power=-1", "training.power must be"),
    ("training.clip=0", "training.clip must be"),
    ("training.precision=float12", "training.precision must be"),
    ("training.precision=float16", "needs a GPU"),
    ("training.validations=-1", "training.validations must be"),
    ("training.val_images=0", "training.val_images must be"),
    ("training.checkpoint_interval=0", "training.checkpoint_interval must be"),
    ("training.ema=2", "training.ema must be"),
    ("training.augmentation.flip=2", "training.augmentation.flip must be"),
    ("training.augmentation.scale=[2,1]", "training.augmentation.scale must be"),
    ("training.objective.sigma=-1", "sigma"),
    ("training.from_checkpoint=true", "starts from a trained segmenter"),
    ("training.freeze_backbone=true", "random weights"),
    ("training=denoiser", "starts from a trained segmenter"),
    # certifier
    ("certifier.tau=.4", "tau must lie in"),
    ("certifier.tau=1", "tau must lie in"),
    ("certifier.tau=high", "tau must lie in"),
    ("certifier.tau=null", "tau must lie in"),
    ("certifier.tau=.5", "radius 0"),
    ("certifier.n=0", "certifier.n must be"),
    ("certifier.n=10", "n >= "),
    ("certifier.n=many", "certifier.n must be"),
    ("certifier.alpha=0", "certifier.alpha must be"),
    ("certifier.alpha=2", "certifier.alpha must be"),
    ("certifier.sigma=0", "sigma must be"),
    ("certifier.sigma=nan", "sigma must be"),
    ("certifier.correction=homl", "correction"),
    ("certifier._target_=no.such.Certifier", "no.such.Certifier"),
    ("certifier._target_=torch.nn.ReLU", "do not fit torch.nn.ReLU"),
    ("++certifier.foo=1", "foo"),
    ("certifier=lipschitz", "audited Lipschitz constant"),
    ("certifier=demasked_recovery certifier.patch.share=2", "share"),
    # attack
    ("certifier=none attack=pgd", "attack.radius is not set"),
    ("attack=pgd_smoothed attack.radius=-1", "radius of an l2 threat"),
    ("attack=pgd_smoothed attack.radius=big", "Cannot read radius"),
    ("attack=pgd_smoothed attack.radius=4/0", "Cannot read radius"),
    ("attack=pgd_smoothed attack.radius=[1,1]", "list of different ones"),
    ("attack=pgd_smoothed attack.norm=l3", "attack.norm"),
    ("attack=pgd_smoothed attack.steps=0", "attack.steps must be"),
    ("attack=pgd_smoothed attack.loss=crossentropy", "attack.loss must be"),
    ("attack=pgd_smoothed attack.smoothing.votes=0", "votes"),
    ("certifier=none attack=patch", "attack.patch has no size"),
    ("certifier=none attack=patch attack.patch.share=2", "share"),
    ("certifier=none attack=targeted attack.goal=rode", "attack.goal is no class"),
    ("attack=alma_prox attack.radius=1", "The chosen attack has no setting"),
    ("certifier=none attack=sea attack.radius=0.1 attack.surrogate=nowhere.pt", "nowhere.pt"),
    # hardware and tracking
    ("hardware.device=tpu", "hardware.device must be"),
    ("hardware.threads=0", "hardware.threads must be"),
    ("hardware.precision=float12", "hardware.precision must be"),
    ("hardware.noise_batch=0", "hardware.noise_batch must be"),
    ("tracking=wandb tracking.mode=onlin", "tracking.mode must be"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run, and files that are no checkpoints of its network."""
    folder = tmp_path_factory.mktemp("bad")
    run(configuration(folder / "out", "certifier=none", "pictures=0", base=_base("certifier=none")), folder / "report")
    for name, content in (("broken", b"PK\x03\x04 no more"), ("text", b"hello")):
        (folder / f"{name}.pt").write_bytes(content)
    torch.save({"epoch": 3}, folder / "empty.pt")
    torch.save({"state_dict": {"layer.weight": torch.zeros(2, 3)}}, folder / "other.pt")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "picture.png")
    return folder


def _base(words):
    """Settings of small runs that fit the choices of a command line."""
    changed = {word.lstrip("+~").split("=")[0] for word in words.split()}
    return [
        word
        for word in SMALL
        if word.split("=")[0] not in changed
        and not any(word.startswith(f"{group}.") for group in ("certifier", "dataset", "training") if group in changed)
        and not (word.startswith("model.scales") and "model=mmseg" in words.split())
    ]


def _files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_there_are_many():
    assert len({words for words, _ in CASES}) == len(CASES) >= 120


@pytest.mark.parametrize(("words", "told"), CASES, ids=[words for words, _ in CASES])
def test_bad_input_is_one_line_and_nothing_is_lost(words, told, place, monkeypatch, capsys):
    names = ("broken", "text", "empty", "other")
    overrides = words.format(**{name: place / f"{name}.pt" for name in names}).split()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["certseg", *overrides])
    before = _files(place)
    output = [] if any(word.startswith("output=") for word in overrides) else [f"output={place / 'out'}"]
    try:
        cfg = configuration(place / "out", *output, *overrides, base=_base(words))
        run(cfg, place / "again")
    except Exception as error:
        status = console.explain(error)
    else:
        pytest.fail(f"{words} was accepted")
    err = capsys.readouterr().err
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    assert told in err
    after = _files(place)
    assert {path: after.get(path) for path in before} == before
    assert not any(path.stat().st_size for path in after.keys() - before.keys() if path.name != "identity.json")
