"""Words on the command line that certseg does not know, and what it says of them."""

import pytest
from support.commands import Command

CASES = [
    (["certifer=segcertify"], "There is no setting or group certifer. Did you mean certifier?"),
    (["datset=camvid"], "Did you mean dataset?"),
    (["atack=pgd"], "Did you mean attack?"),
    (["sed=3"], "Did you mean seed?"),
    (["xyz=3"], "There is no setting or group xyz. Run certseg --help"),
    (
        ["certifier=segcertfy"],
        "no certifier=segcertfy. Did you mean segcertify? Choices of certifier: adap",
    ),
    (["model=upernet_tny"], "Did you mean upernet_tiny"),
    (["hardware=tpu"], "There is no hardware=tpu. Did you mean cpu? Choices of hardware: a100, auto, cpu, cuda, h100."),
    (["experiment=dmeo"], "Did you mean demo?"),
    (["hydra/launcher=slrum"], "Did you mean slurm?"),
    (["certifier.tauu=0.8"], "There is no setting certifier.tauu. Did you mean certifier.tau?"),
    (["model.denoiser.widht=3"], "certseg --cfg job -p model"),
    (["training.objective.sgima=.2"], "Did you mean training.objective.sigma?"),
    (
        ["attack=alma_prox", "attack.radius=1"],
        "no setting attack.radius of this form. attack=apgd",
    ),
    (["-m", "attack=pgd,square", "attack.radius=1"], "Write ++attack.radius=..."),
    (
        ["dataset.root=x"],
        "The chosen dataset has no setting dataset.root of this form. dataset=ade20k, ",
    ),
    (["model.checkpoint=epoch=3-step=10.ckpt"], "'model.checkpoint=\"epoch=3-step=10.ckpt\"'"),
    (["output=a b, c"], "Ambiguous value for argument 'output=a b, c'"),
    (["output=a)b"], "Quote values with spaces"),
    (["=3"], "A setting has no name"),
    (["model=mmseg"], "model.config is not set. Give it on the command line: model.config=<value>"),
    (["output="], "output must be a text that is not empty"),
]


@pytest.mark.parametrize(("words", "told"), CASES, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_was_meant_is_named_in_one_line(words, told, tmp_path):
    status, out, err = Command(*words, cwd=tmp_path).finish(60)
    assert (status, out) == (2, "")
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert "://" not in err  # no search path


def test_choices_of_ones_own_are_known(tmp_path):
    (tmp_path / "mine" / "certifier").mkdir(parents=True)
    (tmp_path / "mine" / "certifier" / "strict.yaml").write_text("defaults: [segcertify]\nsharpness: 3\n")
    status, _, err = Command("--config-dir", "mine", "certifier=strct", cwd=tmp_path).finish(60)
    assert status == 2
    assert "Did you mean strict?" in err
    status, _, err = Command("--config-dir", "mine", "certifier.sharpnes=3", cwd=tmp_path).finish(60)
    assert status == 2
    assert "Did you mean certifier.sharpness?" in err
