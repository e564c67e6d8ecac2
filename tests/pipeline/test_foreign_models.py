"""Networks of other libraries and of one's own through the console command: trained, or as they come in a file."""

import json

import pytest
import torch
from support.commands import Command
from support.pipeline_runs import SMALL, configuration
from torch import nn

import certseg
from certseg.certifiers import SegCertify
from certseg.compute.hardware import Hardware
from certseg.datasets import Streets
from certseg.errors import CertsegError, CheckpointError, ConfigError
from certseg.models import onnx_network, torchscript_network, transformers_network
from certseg.pipeline import run
from certseg.pipeline.settings import parse
from certseg.pipeline.weights import build_segmenter

BASE = [word for word in SMALL if not word.startswith("model.")]
TINY = "model.settings={depths: [1, 1, 1, 1], hidden_sizes: [8, 16, 16, 16], num_attention_heads: [1, 1, 1, 1], "
TINY += "decoder_hidden_size: 16, sr_ratios: [1, 1, 1, 1]}"
LIBRARIES = {
    "torchvision": ("torchvision", ("model=torchvision",)),
    "smp": ("segmentation_models_pytorch", ("model=smp", "model.architecture=unet", "model.encoder=resnet18")),
    "transformers": ("transformers", ("model=transformers", TINY)),
}
CLASSES = len(Streets.class_names)


def network_of(library, *overrides):
    """The segmenter of a choice, with fresh weights of a fixed seed."""
    pytest.importorskip(LIBRARIES[library][0], reason=f"the extra {library} is not installed")
    torch.manual_seed(0)
    spec = parse(configuration("outputs", *LIBRARIES[library][1], *overrides, base=BASE))
    return build_segmenter(spec.model, CLASSES).eval()


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_network_of_a_library_is_wrapped_as_it_is(library):
    wrapped = network_of(library, "model.normalise=none")
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        answer = wrapped.network(images)
        own = answer["out"] if library == "torchvision" else answer if library == "smp" else answer.logits
        enlarged = nn.functional.interpolate(own, size=(64, 96), mode="bilinear", align_corners=False)
        assert torch.allclose(wrapped(images), enlarged, atol=1e-6)
        assert wrapped(torch.rand(1, 3, 21, 35)).shape == (1, CLASSES, 21, 35)
    assert (wrapped.coarse_logits(images) is not None) == (library == "transformers")


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_is_trained_and_certified_by_the_command(library, tmp_path):
    pytest.importorskip(LIBRARIES[library][0], reason=f"the extra {library} is not installed")
    words = [*LIBRARIES[library][1], "attack=pgd_smoothed", "attack.steps=2", "attack.smoothing.votes=50", "pictures=0"]
    status, out, err = Command(*BASE, *words, cwd=tmp_path).finish()
    assert status == 0, out + err
    (result,) = tmp_path.glob("outputs/runs/*/*/result.json")
    found = {entry["summary"]["kind"]: entry["summary"] for entry in json.loads(result.read_text())["entries"]}
    assert set(found) == {"prediction", "certifier", "attack"}
    assert found["attack"]["figures"]["bracket/violations"] == 0
    base = [word for word in BASE if not word.startswith("certifier.")]
    words = [*LIBRARIES[library][1], "certifier=demasked_recovery", "attack=sea_fast", "attack.norm=linf"]
    words += ["attack.radius=2/255", "attack.iterations=3", "pictures=0"]
    status, out, err = Command(*base, *words, cwd=tmp_path).finish()
    assert status == 0, out + err
    assert "Reused training" in out
    assert len(list(tmp_path.glob("outputs/*/*/demasked_recovery-*/summary.json"))) == 1
    assert len(list(tmp_path.glob("outputs/*/*/sea_fast-*/summary.json"))) == 1


class Small(nn.Module):
    """A network that could be anybody's, and learns something."""

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1)
        )

    def forward(self, images):
        return {"out": self.layers(images)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One network as TorchScript and as ONNX, both for any batch and size."""
    folder, network = tmp_path_factory.mktemp("exported"), Small(CLASSES).eval()
    torch.jit.save(torch.jit.trace(network.layers, torch.rand(1, 3, 48, 64)), folder / "net.pt")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which exports to ONNX, is not installed")
    sides = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    program = torch.onnx.export(
        network.layers, (torch.rand(2, 3, 48, 64),), dynamo=True, dynamic_shapes=(sides,), verbose=False
    )
    program.save(folder / "net.onnx")
    return folder, network


def test_an_onnx_may_leave_the_shape_of_its_input_open(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx, which builds a network, is not installed")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("images", "scores")]
    nodes = [onnx.helper.make_node("Neg", ["images"], ["scores"])]
    graph = onnx.helper.make_graph(nodes, "negative", [ends[0]], [ends[1]])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "net.onnx")
    images = torch.rand(2, 3, 8, 9)
    assert torch.equal(onnx_network(num_classes=3, name="onnx", file=str(tmp_path / "net.onnx"))(images), -images)


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_exports_give_the_certificates_of_the_network(exported):
    folder, network = exported
    image, cpu = Streets("test", count=1, size=(48, 64))[0].image, Hardware(device="cpu")
    script = torchscript_network(num_classes=CLASSES, name="script", file=str(folder / "net.pt"))
    onnx = onnx_network(num_classes=CLASSES, name="onnx", file=str(folder / "net.onnx"))
    certificates = [
        certseg.certify(model, image, SegCertify(sigma=0.25, n=60), hardware=cpu)
        for model in (certseg.wrap(network), script, onnx)
    ]
    for other in certificates[1:]:
        assert torch.equal(other.classes, certificates[0].classes)
        assert torch.equal(other.certified, certificates[0].certified)
    with torch.no_grad():
        assert torch.allclose(onnx(image[None]), script(image[None]), atol=1e-5)


def test_weights_of_an_onnx_that_lie_elsewhere_are_refused(tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a" + b"\x0a\x08location\x12\x08net.data")
    with pytest.raises(CheckpointError, match="lie in another file"):
        onnx_network(num_classes=2, name="onnx", file=str(tmp_path / "net.onnx"))


@pytest.mark.filterwarnings("ignore")
def test_every_pass_of_a_torchscript_file_is_the_same(exported):
    folder, _ = exported
    script = torchscript_network(num_classes=CLASSES, name="script", file=str(folder / "net.pt"))
    images = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        first, *others = (script(images) for _ in range(4))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
@pytest.mark.parametrize("certifier", ["segcertify", "demasked_recovery"])
def test_a_file_is_certified_by_the_command_and_known_by_its_content(kind, certifier, exported, tmp_path):
    folder, _ = exported
    file = tmp_path / "own.file"
    file.write_bytes((folder / f"net.{'pt' if kind == 'torchscript' else 'onnx'}").read_bytes())
    base = [word for word in BASE if certifier == "segcertify" or not word.startswith("certifier.")]
    words = [f"model={kind}", f"model.file={file}", f"certifier={certifier}", "pictures=0"]
    status, out, err = Command(*base, *words, cwd=tmp_path).finish()
    assert status == 0, out + err
    assert "Trained" not in out
    status, out, err = Command(*base, *words, cwd=tmp_path).finish()
    assert "3 of 3 images are finished already" in out
    if kind == "torchscript":
        other = Small(CLASSES).eval()
        nn.init.normal_(other.layers[0].weight)
        torch.jit.save(torch.jit.trace(other.layers, torch.rand(1, 3, 48, 64)), file)
        status, out, err = Command(*base, *words, cwd=tmp_path).finish()
        assert status == 0, out + err
        assert "finished already" not in out


@pytest.mark.filterwarnings("ignore")
def test_a_denoiser_is_trained_in_front_of_a_network_that_stays(exported, tmp_path):
    folder, network = exported
    words = ["model/denoiser=dncnn", "model.denoiser.width=4", "training=denoiser", "certifier.tau=0.7", "pictures=0"]
    base = [word for word in BASE if not word.startswith("training.val")]
    settings = [f"model.file={folder / 'net.pt'}", "model=torchscript", "training.validations=0", *words]
    status, out, err = Command(*base, *settings, cwd=tmp_path).finish()
    assert status == 0, out + err
    (checkpoint,) = tmp_path.rglob("model.pt")
    found = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(found["segmenter.network.module.0.weight"], network.layers[0].weight)
    assert sum(value.abs().sum() for name, value in found.items() if name.startswith("denoiser.")) > 0
    status, out, err = Command(*base, *settings, cwd=tmp_path).finish()
    assert "Reused training" in out
    assert "finished already" in out
    settings[:2] = [f"model.file={folder / 'net.onnx'}", "model=onnx"]
    status, out, err = Command(*base, *settings, cwd=tmp_path).finish()
    assert status == 2
    assert "its answer has no gradient" in err


def test_a_network_of_ones_own_is_trained_by_cross_entropy_and_known_by_its_source(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, classes, width=4):\n        super().__init__()\n"
        "        self.first = torch.nn.Conv2d(3, width, 3, stride=2, padding=1)\n"
        "        self.last = torch.nn.Conv2d(width, classes, 1)\n\n"
        "    def forward(self, images):\n        return (self.last(self.first(images).relu()), None)\n"
    )
    words = ["model=custom", "model.network._target_=mine.Net", "+model.network.width=6"]
    words += ["model.classes_argument=classes", "certifier=none", "pictures=0"]
    base = [word for word in BASE if not word.startswith("certifier.")]
    status, out, err = Command(*base, *words, cwd=tmp_path).finish()
    assert status == 0, out + err
    (checkpoint,) = tmp_path.rglob("model.pt")
    assert "network.first.weight" in torch.load(checkpoint, weights_only=True)["state_dict"]
    source = tmp_path / "mine.py"
    source.write_text(source.read_text().replace(".relu()", ".tanh()"))
    status, out, err = Command(*base, *words, cwd=tmp_path).finish()
    assert status == 0, out + err
    assert "Trained in" in out
    status, out, err = Command(*base, *words[:-4], "certifier=none", cwd=tmp_path).finish()
    assert status == 2
    assert "model.network._target_ is not set" in err or "classes_argument" in err


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        (("model=torchvision", "model.architecture=resnet18"), ConfigError, "lraspp_mobilenet_v3_large"),
        (("model=torchvision", "model.weights=BEST"), ConfigError, "DEFAULT"),
        (("model=torchvision", "model.weights=DEFAULT"), ConfigError, r"8 classes.*21 classes.*train the network"),
        (("model=torchvision", "model.divisor=0"), ConfigError, "divisor"),
        (("model=smp", "model.architecture=unett"), ConfigError, "unett"),
        (("model=smp", "model.encoder=resnet1"), ConfigError, "resnet1"),
        (("model=transformers", "model.architecture=BertModel"), ConfigError, "SegformerForSemanticSegmentation"),
        (("model=transformers", "model.settings={depths: [1], hidden_sizes: 3}"), ConfigError, "settings do not fit"),
        (("model=transformers", "model.settings={depts: [1]}"), ConfigError, "Received: depts"),
        (("model=torchvision", "model.pretrained=true"), ConfigError, r"random weights.*model.weights=DEFAULT"),
        (("model=smp", "model.pretrained=true"), ConfigError, "random weights"),
        (("model=transformers", TINY, "model.pretrained=true"), ConfigError, "random weights"),
        (("model=torchscript",), ConfigError, "model.file is not set"),
        (("model=torchscript", "model.file=nowhere.pt"), CheckpointError, "nowhere.pt"),
        (("model=onnx", "model.file=nowhere.onnx"), CheckpointError, "nowhere.onnx"),
        (("model=torchscript", f"model.file={__file__}"), CheckpointError, "no TorchScript file"),
        (("model=onnx", f"model.file={__file__}"), CheckpointError, "cannot be loaded as ONNX"),
        (("model=custom",), ConfigError, "model.network._target_ is not set"),
        (
            ("model=custom", "model.network._target_=torch.nn.Linear", "model.pretrained=true"),
            CertsegError,
            "classes_argument",
        ),
        (("model=torchvision", "model.pretrained=true", "model.checkpoint=a.pt"), ConfigError, "Leave one of the two"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_built_is_one_line(overrides, kind, words, tmp_path):
    for name in ("smp", "transformers"):
        if f"model={name}" in overrides:
            pytest.importorskip(LIBRARIES[name][0], reason=f"the extra {name} is not installed")
    base = [word for word in BASE if not word.startswith("certifier.")]
    with pytest.raises(kind, match=words) as error:
        run(configuration(tmp_path / "out", *overrides, "certifier=none", base=base), tmp_path / "report")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("history.jsonl"))


@pytest.fixture
def shipped(tmp_path):
    """A folder as transformers ships networks: its classes are those of the street scenes, the other way round."""
    transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 16, 16, 16], "num_attention_heads": [1] * 4, "sr_ratios": [1] * 4}
    names = dict(enumerate(reversed(Streets.class_names)))
    config = transformers.SegformerConfig(num_labels=CLASSES, decoder_hidden_size=16, id2label=names, **sizes)

    def ship(seed):
        torch.manual_seed(seed)
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "hf")
        processor = {"image_processor_type": "SegformerImageProcessor", "do_normalize": True}
        processor |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
        (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
        return f"model.pretrained_model={tmp_path / 'hf'}"

    return ship


def test_what_a_library_says_of_its_weights_is_taken_at_its_word(shipped, tmp_path, capsys):
    words = ("model=transformers", shipped(0), "model.pretrained=true", "certifier=none")
    base = [word for word in BASE if not word.startswith("certifier.")]
    with pytest.raises(CheckpointError, match=r"in another order.*map_classes=true"):
        run(configuration(tmp_path / "out", *words, base=base), tmp_path / "report")
    run(configuration(tmp_path / "out", *words, "model.map_classes=true", base=base), tmp_path / "report")
    out = capsys.readouterr().out
    assert "colours less 0.5, 0.4, 0.3 over 0.2, 0.2, 0.2" in out
    assert "training=noise is not run" in out
    assert "transformers_network(" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    "told",
    [{}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"do_normalize": False, "do_rescale": False}],
)
def test_a_processor_that_rescales_otherwise_is_followed(told, tmp_path):
    """Against what transformers itself makes of a picture."""
    transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    config = transformers.SegformerConfig(
        num_labels=CLASSES, hidden_sizes=[8] * 4, depths=[1] * 4, decoder_hidden_size=8
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    stated = {"image_processor_type": "SegformerImageProcessor", "do_resize": False, "do_normalize": True}
    stated |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]} | told
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    shown = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(shown, return_tensors="pt")["pixel_values"]
    architecture = "SegformerForSemanticSegmentation"
    model = transformers_network(
        num_classes=CLASSES, name="hf", architecture=architecture, pretrained_model=str(tmp_path)
    )
    seen = []
    model.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.eval()(shown[None] / 255.0)
    assert torch.allclose(seen[0], theirs.float(), rtol=1e-5, atol=1e-5)


def test_a_training_from_weights_that_a_network_comes_with_knows_them(shipped, tmp_path):
    words = ("model=transformers", shipped(0), "model.pretrained=true", "model.trust_classes=true")
    words += ("model/denoiser=dncnn", "training=denoiser", "certifier=none")
    base = [word for word in BASE if not word.startswith("certifier.")]
    for seed in (0, 1, 1):
        shipped(seed)
        run(configuration(tmp_path / "out", *words, base=base), tmp_path / f"report{seed}")
    assert len(list((tmp_path / "out").rglob("model.pt"))) == 2


@pytest.mark.parametrize(("place", "status"), [("__init__", 2), ("forward", 2)])
def test_an_error_in_a_network_of_ones_own_names_its_line(place, status, tmp_path):
    raised = {"__init__": "        raise RuntimeError('boom')\n", "forward": ""}[place]
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Conv2d):\n    def __init__(self, classes):\n"
        f"        super().__init__(3, classes, 3, padding=1)\n{raised}\n"
        "    def forward(self, images):\n        return missing(images)\n"
    )
    words = ["model=custom", "model.network._target_=mine.Net", "model.classes_argument=classes"]
    found, out, err = Command(*BASE, *words, cwd=tmp_path).finish()
    assert found == status, out + err
    line = {"__init__": "RuntimeError: boom (mine.py, line 7)", "forward": "(mine.py, line 9)"}[place]
    assert line in err
