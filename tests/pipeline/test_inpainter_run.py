"""From training=inpainter to a certificate with its checkpoint."""

import pytest
from support.pipeline_runs import SMALL, configuration

from certseg.errors import CheckpointError, ConfigError
from certseg.pipeline import run
from certseg.pipeline.settings import parse
from certseg.pipeline.stages import Plan

BASE = tuple(option for option in SMALL if not option.startswith(("certifier", "model")))
TRAIN = ("training=inpainter", "training.inpainter.width=8", "training.inpainter.depth=2")


def test_train_then_certify(tmp_path, capsys):
    assert run(configuration(tmp_path / "out", *TRAIN, base=BASE), tmp_path / "first") is None
    (model,) = tmp_path.glob("out/*/inpainter/train-*/model.pt")
    printed = capsys.readouterr().out
    assert "Trained in" in printed
    assert "mean absolute error of hidden values 0." in printed
    assert f"certifier.inpainter.checkpoint={model}" in printed
    assert len(list(tmp_path.rglob("model.pt"))) == 1  # no segmenter

    other_model = ("model=segformer_b0", "certifier=none", "training.validations=0")  # changes nothing that is trained
    run(configuration(tmp_path / "out", *TRAIN, *other_model, base=BASE), tmp_path / "second")
    assert "Reused training, mean absolute error of hidden values 0." in capsys.readouterr().out
    run(configuration(tmp_path / "out", *TRAIN, "seed=1", base=BASE), tmp_path / "third")
    models = sorted(tmp_path.glob("out/*/inpainter/train-*/model.pt"))
    assert len(models) == 2

    for file in models:  # the same settings with other weights are another result
        overrides = ("certifier=demasked_recovery", "certifier/inpainter=learned", "dataset.limit=1")
        checkpoint = f"certifier.inpainter.checkpoint='{file}'"
        report = run(
            configuration(tmp_path / "out", *overrides, checkpoint, "model.scales=[1.0]", base=BASE), tmp_path / "last"
        )
    assert "learned" in report.read_text()
    assert len(list(tmp_path.glob("out/*/*/demasked_recovery-*/summary.json"))) == 2


def test_what_does_not_fit_stops_before_training(tmp_path):
    certify = ("certifier=demasked_recovery", "certifier/inpainter=learned")
    with pytest.raises(ConfigError, match=r"Set certifier\.inpainter\.checkpoint"):
        Plan.of(parse(configuration(tmp_path, *certify, base=())))
    with pytest.raises(CheckpointError, match="nowhere"):
        Plan.of(parse(configuration(tmp_path, *certify, "certifier.inpainter.checkpoint=nowhere.pt", base=())))
    with pytest.raises(ConfigError, match="width"):
        run(configuration(tmp_path, *TRAIN, "training.inpainter.width=0", base=BASE), tmp_path / "report")
    with pytest.raises(ConfigError, match="nothing to train on"):
        run(configuration(tmp_path, *TRAIN, "dataset.train_split=null", base=BASE), tmp_path / "report")
    assert not list(tmp_path.rglob("model.pt"))
