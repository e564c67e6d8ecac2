"""What cannot be proven is refused: repeated channels, changed networks and heads, products of lower precision."""

import gc

import pytest
import torch
from torch import nn

import certseg
from certseg.certifiers import Lipschitz
from certseg.errors import ModelError
from certseg.lipschitz import layers
from certseg.lipschitz.audit import audit, bake, full_precision, local_norm
from certseg.lipschitz.audit.precision import check_arithmetic
from certseg.lipschitz.audit.state import checksums, mixed
from certseg.models import LipDeepLabV3, LipschitzNetwork

SIZE = (12, 14)


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def build(**settings):
    return LipDeepLabV3(num_classes=4, name="x", size=[[8, 1]], rates=[2], **settings).eval()


def one_channel():
    """The normalised sum of the channels: norm 1."""
    conv = nn.Conv2d(3, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 3**-0.5)
    return conv


# --- tensors that are repeated


@pytest.mark.parametrize("last", [layers.BatchCentering(16), layers.PositionBias(16)], ids=["centering", "position"])
def test_one_channel_is_not_repeated_to_many(last):
    """Sixteen copies of a channel have four times its norm."""
    network = nn.Sequential(one_channel(), last).double().eval()
    assert local_norm(network, torch.rand(1, 3, 4, 4).double()) == pytest.approx(4.0, rel=1e-3)
    with pytest.raises(ModelError, match="takes 16 channels"):
        audit(network, (4, 4))
    inside = LipschitzNetwork(network, 16, num_classes=4, name="x", convolution="orthogonal").eval()
    with pytest.raises(ModelError, match="takes 16 channels"):
        inside.certified_bound((4, 4))


def test_values_are_one_for_each_channel():
    grey = layers.Normalise([0.5] * 3, [1.0] * 3).double().eval()
    with pytest.raises(ModelError, match="takes 3 channels"):
        audit(nn.Sequential(grey).eval(), (4, 4), channels=1)
    square = layers.BatchCentering(3).double().eval()
    square.mean, square.bias.data = torch.zeros(3, 3).double(), torch.zeros(3, 3).double()
    with pytest.raises(ModelError, match="one number for each channel"):
        audit(nn.Sequential(square).eval(), (4, 4))
    stacked = layers.PositionBias(3).double().eval()
    stacked.map.data = torch.zeros(2, 3, 4, 4).double()
    with pytest.raises(ModelError, match="1 x C x h x w"):
        audit(nn.Sequential(stacked).eval(), (4, 4))
    norm = nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(4)).eval()
    with pytest.raises(ModelError, match="takes 4 channels"):
        audit(norm, (4, 4))


def identity(channels=3):
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.dirac_(conv.weight)
    return conv


SETTINGS = {
    "channels of a sum": (layers.WeightedSum([one_channel(), identity()]), "different numbers of channels"),
    "channels of a split": (layers.ChannelSplit([nn.Identity(), nn.Identity()], [1, 1]), "splits 2 channels"),
    "sizes in a concatenation": (layers.Concat([nn.Identity(), nn.AvgPool2d(2)]), "different sizes"),
    "size inside a pool": (layers.Pooled(nn.AvgPool2d(2), 4), "changes the size"),
    "nearest by 3": (nn.Upsample(scale_factor=3), "no rule"),
    "aligned corners": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "no rule"),
    "fixed size": (nn.Upsample(size=(16, 16), mode="bilinear"), "no rule"),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), "no rule"),
    "half again": (nn.Upsample(scale_factor=1.5, mode="bilinear"), "no rule"),
    "average over partial windows": (nn.AvgPool2d(3, 2, ceil_mode=True), "depend on the position"),
    "another divisor": (nn.AvgPool2d(2, divisor_override=1), "depend on the position"),
    "average without padding": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "depend on the position"),
    "pool of unknown size": (nn.AdaptiveAvgPool2d(None), "no fixed output size"),
    "pool of half unknown size": (nn.AdaptiveAvgPool2d((None, 2)), "no fixed output size"),
    "max pool over partial windows": (nn.MaxPool2d(2, ceil_mode=True), "no rule"),
    "dilated max pool": (nn.MaxPool2d(2, dilation=2), "no rule"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_without_a_rule(kind):
    module, words = SETTINGS[kind]
    with pytest.raises(ModelError, match=words):
        audit(nn.Sequential(identity(), module).eval(), (8, 8))


def test_hooks_before_a_module_and_on_all_modules():
    network = nn.Sequential(identity(), nn.ReLU()).double().eval()
    handle = network[1].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    assert local_norm(network, torch.rand(1, 3, 4, 4).double()) == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(ModelError, match=r"1 .ReLU.: it has forward hooks"):
        audit(network, (4, 4))
    handle.remove()
    assert audit(network, (4, 4)).constant == pytest.approx(1.0)
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(lambda *arguments: None)
        try:
            with pytest.raises(ModelError, match="all modules have forward hooks"):
                audit(network, (4, 4))
        finally:
            handle.remove()


def test_a_convolution_with_a_forward_pass_of_its_own_is_not_baked():
    class Own(nn.Conv2d):
        limit = 1.0

        def forward(self, x):
            return 3 * super().forward(x)

    with pytest.raises(ModelError, match="unknown class"):
        bake(nn.Sequential(Own(3, 3, 1)))


# --- what surrounds the audited body


def hooked(network):
    network.register_forward_hook(lambda module, inputs, output: 100 * output)


def hooked_before(network):
    network.register_forward_pre_hook(lambda module, inputs: (100 * inputs[0] - 49.5,))


def hooked_head(network):
    hooked(network.head)


def hooked_offset(network):
    hooked(network.offset)


def scaled(network):
    network.offset = layers.Scale(100.0)


def wide(network):
    network.head = nn.Conv2d(network.head.in_channels, 4, 3, padding=1)


def strided(network):
    network.head = nn.Conv2d(network.head.in_channels, 4, 1, stride=2)


def padded(network):
    network.head = nn.Conv2d(network.head.in_channels, 4, 1, padding=1)


def grouped(network):
    network.head = nn.Conv2d(network.head.in_channels, 4, 1, groups=2)


def unlike(network):
    network.offset = layers.PositionBias(1)


def more_classes(network):
    network.head = nn.Conv2d(network.head.in_channels, 5, 1)


def in_two(network):
    network.head = nn.Sequential(network.head, nn.Identity())


def replaced(network):
    network.forward = lambda images: 100 * LipschitzNetwork.forward(network, images)


def halved(network):
    network.body.append(nn.AvgPool2d(2))


def narrowed(network):
    network.body.append(nn.Conv2d(network.head.in_channels, 1, 1, bias=False))
    nn.init.constant_(network.body[-1].weight, 0.1)


CHANGES = {
    hooked: "the network .* hooks",
    hooked_before: "the network .* hooks",
    hooked_head: "the head .* hooks",
    hooked_offset: "the offset .* hooks",
    scaled: "only a translation",
    wide: "must be a matrix",
    strided: "must be a matrix",
    padded: "must be a matrix",
    grouped: "must be a matrix",
    unlike: "only a translation",
    more_classes: "must be a matrix",
    in_two: "must be a matrix",
    replaced: "a method of it is replaced",
    halved: "size of the image",
    narrowed: "must be a matrix",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_is_proven_about_a_network_that_is_not_as_it_was_built(change):
    network = build()
    assert network.certified_bound(SIZE).constant <= 1 + 1e-9  # and is kept
    change(network)
    with pytest.raises(ModelError, match=CHANGES[change]):
        network.certified_bound(SIZE)


def test_nor_about_a_class_with_a_forward_pass_of_its_own():
    class Louder(LipDeepLabV3):
        def forward(self, images):
            return 100 * super().forward(images)

    network = Louder(num_classes=4, name="x", size=[[8, 1]], rates=[2]).eval()
    with pytest.raises(ModelError, match="Louder has a forward of its own"):
        network.certified_bound(SIZE)


# --- changes that torch does not count


def multiply(network):
    network.head.weight.data *= 3


def through_numpy(network):
    network.head.weight.detach().numpy()[:] *= 3


def negate(network):
    network.head.weight.data.neg_()


def setting(network):
    network.body[1].factor = 0.5


def buffer(network):
    network.body[0].mean.data.add_(0.1)


@pytest.mark.parametrize("change", [multiply, through_numpy, negate, setting, buffer], ids=lambda f: f.__name__)
def test_changes_without_a_version_are_noticed(change):
    network, image = build(), torch.rand(1, 3, *SIZE)
    before, bound = network(image), network.certified_bound(SIZE)
    digest = network.certificate(SIZE).weights
    versions = [p._version for p in network.parameters()]
    change(network)
    assert versions == [p._version for p in network.parameters()]
    assert not torch.equal(network(image), before)
    assert network.certified_bound(SIZE) is not bound
    assert network.certificate(SIZE).weights != digest
    expected = copy_of(network)(image)
    assert torch.equal(network(image), expected)


def copy_of(network):
    """The same weights and settings in a network without a past."""
    fresh = build()
    fresh.load_state_dict(network.state_dict())
    fresh.body[1].factor, fresh.body[0].mean = network.body[1].factor, network.body[0].mean
    return fresh


def test_weights_in_memory_that_is_used_again_are_noticed():
    network, image = build(), torch.rand(1, 3, *SIZE)
    for number in range(8):
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        state["head.bias"].fill_(float(number))
        network.load_state_dict(state, assign=True)
        del state
        gc.collect()
        before = network(image)
        assert torch.equal(before, copy_of(network)(image))


def test_a_checksum_depends_on_every_bit_and_its_place():
    values = torch.randn(40)
    for found in (lambda x: checksums([x])[0], lambda x: mixed(x.contiguous().view(torch.uint8))):
        seen = {found(values), found(-values), found(2 * values), found(values.flip(0))}
        for place in range(40):
            for bit in range(0, 32, 3):
                changed = values.clone().view(torch.int32)
                changed[place] ^= 1 << bit
                seen.add(found(changed.view(torch.float32)))
            swapped = values.clone()
            swapped[[place, 0]] = values[[0, place]]
            seen.add(found(swapped))
        assert len(seen) == 4 + 40 * 11 + 39
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0])
        assert found(signs) != found(-signs)
    assert checksums([torch.zeros(2), torch.zeros(0), torch.ones(1)]) != checksums([torch.ones(1), torch.zeros(2)])


def test_the_digest_covers_head_and_offset():
    network = build()
    digests = {network.certificate(SIZE).weights}
    for tensor in (network.head.weight, network.head.bias, network.offset.map):
        with torch.no_grad():
            tensor.add_(1.0)
        digests.add(network.certificate(SIZE).weights)
    assert len(digests) == 4


def test_a_network_built_under_inference_mode():
    with torch.inference_mode():
        network = build()
    image = torch.rand(1, 3, *SIZE, requires_grad=True)
    network(image).square().sum().backward()
    assert float(image.grad.norm()) > 0
    assert certseg.certify(network, image.detach()[0], Lipschitz(radius=0.01)).certified.shape == SIZE


# --- precision


def settings():
    backends = torch.backends
    return [
        backends.mkldnn.conv.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        backends.cuda.matmul.fp32_precision,
        backends.cudnn.conv.fp32_precision,
    ]


@pytest.fixture
def reduced():
    """Everything computed at lower precision, by torch's newer switches."""
    before = settings()
    names = (
        torch.backends.mkldnn.conv,
        torch.backends.mkldnn.matmul,
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,
    )
    for owner, value in zip(names, ("bf16", "bf16", "tf32", "tf32")):
        owner.fp32_precision = value
    yield
    for owner, value in zip(names, before):
        owner.fp32_precision = value


def test_reduced_precision_of_every_kind_is_refused(reduced):
    for device, names in (("cpu", "mkldnn.conv.*mkldnn.matmul"), ("cuda", "cuda.matmul.*cudnn.conv")):
        with pytest.raises(ModelError, match=names):
            check_arithmetic(torch.float32, {device})
        check_arithmetic(torch.float64, {device})
    with pytest.raises(ModelError, match="lower precision"):
        audit(nn.Sequential(identity()).eval(), (4, 4))
    with full_precision(torch.device("cpu")):
        check_arithmetic(torch.float32, {"cpu", "cuda"})


def test_a_switch_for_all_is_refused_and_set_aside():
    torch.backends.fp32_precision = "bf16"
    try:
        before = settings()
        with pytest.raises(ModelError, match=r"mkldnn\.conv"):
            check_arithmetic(torch.float32, {"cpu"})
        with full_precision(torch.device("cpu")):
            check_arithmetic(torch.float32, {"cpu", "cuda"})
        assert settings() == before
        build(arithmetic="float32").certified_bound(SIZE)
    finally:
        torch.backends.fp32_precision = "none"


def test_a_float32_network_computes_in_float32(reduced):
    network, image, seen = build(arithmetic="float32"), torch.rand(1, 3, *SIZE), []
    expected = network(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(image), expected)
        assert torch.equal(network.features(image), network.features(image).float())

    def look(*arguments):
        seen.append((settings(), torch.is_autocast_enabled("cpu")))

    network.head.register_forward_hook(look)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(image)
    assert seen == [(["ieee"] * 4, False)]
    assert settings() == ["bf16", "bf16", "tf32", "tf32"]
