"""A network, a data set, a certifier and an attack of a stranger, in files outside the package: they run through the
command line and the Python API, and what they bring is compared and reported like everything else."""

import json
import re
import shutil

import pytest
import torch
from support.commands import ROOT, Command

import certseg
from certseg.attacks import PGD
from certseg.types import L2

HERE = ROOT / "tests" / "support" / "strangers"
TRAINING = (
    "training=clean",
    "training.iterations=2",
    "training.batch_size=2",
    "training.crop=null",
    "training.lr=1e-9",  # the network is right from the start
    "training.validations=0",
    "training.checkpoint_interval=2",
    "pictures=0",
    "hardware=cpu",
    "hardware.threads=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the stranger works: module and configs lie there, results come there."""
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copytree(HERE, folder, dirs_exist_ok=True)
    return folder


def run(folder, *words):
    """The command in the stranger's folder; exit status, output and errors."""
    return Command("--config-dir", ".", *TRAINING, *words, cwd=folder).finish()


def entries(folder):
    """The summaries of the newest run by kind."""
    newest = max((folder / "outputs" / "runs").rglob("result.json"), key=lambda path: path.stat().st_mtime)
    return {part["summary"]["kind"]: part["summary"] for part in json.loads(newest.read_text())["entries"]}, newest


OWN = ("dataset=shades", "model=pixels")


def test_everything_of_a_stranger_runs_and_is_compared(folder):
    status, out, err = run(folder, *OWN, "certifier=margins", "attack=darken", "pictures=1")
    assert status == 0, out + err
    found, newest = entries(folder)
    assert found["certifier"]["name"] == "margins"
    assert found["certifier"]["guarantee"]["promise"] == "every_pixel"
    assert found["attack"]["name"] == "darken"
    assert found["attack"]["threat"] == {"norm": "l2", "radius": 0.05}  # the certificate's
    assert found["attack"]["figures"]["bracket/certified_pixels"] > 0
    assert found["attack"]["figures"]["bracket/violations"] == 0
    assert found["attack"]["figures"]["bracket/bounds"] > 0
    assert "sure_pixels/image_mean" in found["certifier"]["figures"]
    report = newest.with_name("report.md").read_text()
    assert "holds on every image checked: no certified pixel changed" in report
    assert "twice what the radius needs" in report  # the stranger's own figure, described
    assert "Deterministic, without any error probability: for every certified pixel and every l2 perturbation" in report


def test_a_strangers_certifier_meets_certsegs_attack(folder):
    """As the command line alone gives it, without a config of its own."""
    options = ("certifier=none", "certifier._target_=mine.Margins", "+certifier.radius=0.08")
    status, out, err = run(folder, *OWN, *options, "attack=pgd", "attack.steps=5")
    assert status == 0, out + err
    found, _ = entries(folder)
    assert found["attack"]["name"] == "pgd"
    assert found["attack"]["figures"]["bracket/certified_pixels"] > 0
    assert "is not compared" not in out


def test_a_stranger_who_claims_too_much_is_found_out(folder):
    options = ("certifier=margins", "certifier.radius=0.02", "+certifier.boast=250")
    status, out, err = run(folder, *OWN, *options, "attack=pgd", "attack.steps=20")
    assert status == 2, out + err
    assert "The attack pgd contradicts margins" in err
    assert "image 'test_" in err


def test_results_do_not_outlive_the_code_that_made_them(folder, tmp_path):
    """Another line in the network's code, or in what it imports, is another network."""
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    settings = (*OWN, "certifier=margins")
    assert run(tmp_path, *settings)[0] == 0
    assert "3 of 3 images are finished already" in run(tmp_path, *settings)[1]
    module = tmp_path / "mine.py"
    module.write_text(module.read_text().replace("return self.layer(images)", "return self.layer(images).flip(1)"))
    status, out, err = run(tmp_path, *settings)
    assert status == 0, err
    assert "finished already" not in out
    assert (
        entries(tmp_path)[0]["prediction"]["figures"]["accuracy/pooled"] == 0.0
    )  # every pixel has the other class now


def test_what_fulfils_no_contract_is_one_line(folder):
    status, _, err = run(folder, *OWN, "certifier=none", "certifier._target_=mine.NoContract")
    assert status == 2
    assert "expected: a class that derives from certseg.types.certifier" in err.lower()
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("self.split, self.count = split, count", 'self.split, self.count, self.name = split, count, "../../up"'),
            "name",
        ),
        (("def fingerprint", "def print"), "Shades lacks fingerprint"),
        (("Sample(self.names()[index], ", 'Sample("other", '), "Item 0 of the data set is not the image"),
        (("return Sample(self.names()[index], ", "return (0, "), "Item 0 of the data set is not the image"),
        (("range(self.count))", "range(self.count - 1))"), "names() of the data set does not list it"),
        (('name = "margins"', 'name = "up/../margins"'), "certifier.name must be a plain word"),
        (('norms = ("l2",)', 'norms = "l2"'), "must be a tuple of kinds of threat"),
        (('return {"loss": F', 'return {"ce": F'), "names that contain 'loss'"),
    ],
)
def test_what_a_part_lacks_is_one_line(change, words, tmp_path):
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    module, (old, new) = tmp_path / "mine.py", change
    assert old in module.read_text()
    module.write_text(module.read_text().replace(old, new))
    status, out, err = run(tmp_path, *OWN, "certifier=margins", "attack=darken")
    assert status == 2, out + err
    assert words in err
    assert len(err.strip().splitlines()) == 1, err


def test_the_python_api_takes_the_same_classes(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    import mine

    model, sample = mine.Pixels("pixels", 2), mine.Shades("test")[0]
    certificate = certseg.certify(model, sample.image, mine.Margins(0.05))
    assert certificate.threat == L2(0.05)
    assert certificate.certified.double().mean() > 0.5
    for method in (mine.Darken(), PGD(steps=5)):
        found = certseg.attack(model, sample.image, sample.target, certificate.threat, method)
        unchanged = found.prediction == certificate.classes
        assert bool(unchanged[certificate.certified].all())
    assert isinstance(found.adversarial, torch.Tensor)


def test_the_example_in_the_documentation_certifies_street_scenes(folder, tmp_path):
    own = ROOT / "examples" / "own_parts"
    small = ("dataset.size=[48,64]", "dataset.count=4", "dataset.limit=2", "model.scales=[1.0]", "attack.steps=2")
    words = ["training=noise", *small, "certifier=hoeffding", "attack=pgd_smoothed", "pictures=1"]
    status, out, err = Command("--config-dir", own, *TRAINING, *words, cwd=tmp_path).finish()
    assert status == 0, out + err
    found, newest = entries(tmp_path)
    assert found["certifier"]["name"] == "hoeffding"
    assert (
        found["attack"]["predictor"]
        == found["certifier"]["predictor"]
        == "smoothed(gaussian, sigma=0.25, grey levels of 1/255)"
    )
    assert found["attack"]["figures"]["bracket/violations"] == 0
    assert "hoeffding" in newest.with_name("report.md").read_text()


def test_the_parts_that_the_documentation_shows_in_full_run(tmp_path):
    text = (ROOT / "docs" / "own_parts.md").read_text()
    _, *python = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    _, *choices = re.findall(r"```yaml\n(.*?)```", text, flags=re.S)
    (tmp_path / "mine.py").write_text("\n\n".join(python))
    for name, choice in zip(("attack/fgsm", "model/pixels", "dataset/shades"), choices, strict=True):
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir()
        file.write_text(choice)
    words = ["--config-dir", ".", "dataset=shades", "model=pixels", "training=clean", "certifier=none", "attack=fgsm"]
    small = ["attack.radius=4/255", "training.iterations=5", "training.batch_size=2", "training.crop=[32,32]"]
    status, out, err = Command(*words, *small, cwd=tmp_path).finish()
    assert status == 0, out + err
    found, _ = entries(tmp_path)
    assert found["attack"]["predictor"] == "base"
    assert found["attack"]["images"] == 20
