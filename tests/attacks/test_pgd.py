import pytest
import torch
from support.linear_pixels import LinearPixels, image_with_margins, two_classes

import certseg
from certseg.attacks import PGD, Smoothing
from certseg.attacks.geometry import perturbation_norm
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, DataError, ModelError
from certseg.evaluation import AttackStage
from certseg.types import L1, L2, Linf, Sample

CPU = Hardware(device="cpu", noise_batch=4)
STREAM = NoiseStream(0, "x")


def attack(model, image, target, threat, **options):
    return PGD(**options)(model, image, target, threat, stream=STREAM, hardware=CPU)


def test_linf_reaches_the_exact_optimum_on_the_linear_model():
    """Every pixel has its own budget: exactly those whose margin is below eps * sqrt(3) fall."""
    model = two_classes()
    margins = torch.linspace(0.01, 0.4, 40).reshape(5, 8)
    image = image_with_margins(model, margins)
    eps = 0.1
    result = attack(model, image, torch.zeros(5, 8).long(), Linf(eps), steps=20)
    exact = model.margin(image) < eps * 3**0.5
    assert torch.equal(result.prediction == 1, exact)
    assert result.norm <= eps


@pytest.mark.parametrize("loss", ["cross_entropy", "masked_cross_entropy"])
def test_l2_never_beats_and_nearly_reaches_the_optimum_on_the_linear_model(loss):
    """The best attack within an l2 budget buys the cheapest pixels: sum of squared margins <= radius^2."""
    model = two_classes()
    margins = torch.cat([torch.full((6,), 0.05), torch.full((30,), 0.35)]).reshape(4, 9)
    image = image_with_margins(model, margins)
    radius = 0.2
    cost = torch.sort(model.margin(image).flatten() ** 2).values.cumsum(0)
    best = int((cost <= radius**2).sum())
    result = attack(model, image, torch.zeros(4, 9).long(), L2(radius), steps=100, loss=loss, restarts=2)
    flipped = int((result.prediction == 1).sum())
    assert flipped <= best
    assert flipped >= best - 1
    assert result.norm <= radius


@pytest.mark.parametrize("threat", [L1(3.0), L2(0.7), Linf(0.05)])
@pytest.mark.parametrize("seed", range(4))
def test_budget_and_box_hold_in_float64(threat, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(4, 3, 1))
    model.num_classes = 3
    image = torch.rand(3, 9, 7, generator=generator)
    target = torch.randint(3, (9, 7), generator=generator)
    target[0] = 255
    result = attack(model, image, target, threat, steps=7, restarts=2)
    assert perturbation_norm(result.adversarial, image, threat) <= threat.radius
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    clean = model(image[None]).argmax(1)[0]
    labelled = target != 255
    assert ((result.prediction == target) & labelled).sum() <= ((clean == target) & labelled).sum()
    assert result.passes.backward <= 16
    assert result.predictor == "base"


def test_ignored_pixels_have_no_influence():
    model = two_classes()
    image = image_with_margins(model, torch.full((2, 4), 0.2))
    target = torch.zeros(2, 4).long()
    target[1] = 255
    result = attack(model, image, target, L2(0.5), steps=10)
    assert torch.equal(result.adversarial[:, 1], image[:, 1])
    assert (result.prediction[0] == 1).all()


def test_smoothed_attack_reaches_the_known_boundary():
    """Smoothing leaves the decision of a linear model where it is: pixels within the budget of 0.5 fall."""
    model = two_classes()
    image = image_with_margins(model, torch.tensor([[0.06, 0.5]]))
    target = torch.zeros(1, 2).long()
    smoothing = Smoothing(sigma=0.25, samples=8, votes=400)
    result = attack(model, image, target, L2(0.3), steps=20, smoothing=smoothing)
    assert result.prediction.tolist() == [[1, 0]]
    assert result.votes is not None
    assert result.num_votes == 400
    assert result.predictor == "smoothed(gaussian, sigma=0.25, grey levels of 1/255)"


@pytest.mark.parametrize("noise", ["laplace", "uniform"])
def test_l1_attacks_through_the_noise_of_l1_certificates_cross_the_known_boundary(noise):
    """Symmetric noise leaves the decision of a linear model where it is: pixels within the budget of 0.3 fall."""
    model = two_classes()
    image = image_with_margins(model, torch.tensor([[0.06, 0.4]]))
    smoothing = Smoothing(sigma=0.25, samples=256, votes=400, noise=noise)
    result = attack(model, image, torch.zeros(1, 2).long(), L1(0.3), steps=4, step_size=1.0, smoothing=smoothing)
    assert result.prediction.tolist() == [[1, 0]]
    assert result.predictor == f"smoothed({noise}, sigma=0.25, grey levels of 1/255)"
    assert result.norm <= 0.3
    assert Smoothing(sigma=0.25, noise=noise).distribution.threat(0.3) == L1(0.3)


def test_smoothed_gradient_is_the_same_in_one_batch_and_in_several():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(4, 3, 1))
    model.num_classes = 3
    image, target = torch.rand(3, 6, 5), torch.randint(3, (6, 5))
    smoothing = Smoothing(sigma=0.25, samples=6, votes=50)
    results = [
        PGD(steps=3, smoothing=smoothing)(
            model, image, target, L2(0.5), stream=STREAM, hardware=Hardware(device="cpu", noise_batch=batch)
        )
        for batch in (6, 4)
    ]
    assert torch.allclose(results[0].adversarial, results[1].adversarial, atol=1e-4)
    assert results[1].passes.forward > results[0].passes.forward


def test_the_smoothed_attack_backs_off_when_memory_runs_out():
    class Hungry(LinearPixels):
        def forward(self, images):
            if images.requires_grad and len(images) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(images)

    torch.manual_seed(0)
    plain = LinearPixels(torch.randn(2, 3), torch.zeros(2))
    hungry = Hungry(plain.weight.detach(), plain.bias.detach())
    image, target = torch.rand(3, 5, 6), torch.zeros(5, 6, dtype=torch.int64)
    options = {"steps": 3, "smoothing": Smoothing(sigma=0.25, samples=8, votes=50)}
    expected, result = (attack(model, image, target, L2(0.5), **options) for model in (plain, hungry))
    assert torch.allclose(expected.adversarial, result.adversarial, atol=1e-4)
    assert "noise_batch_reduced_to_2" in result.flags


def test_a_model_without_gradient_is_flagged():
    class Constant(torch.nn.Module):
        num_classes = 2

        def forward(self, images):
            return torch.stack([images.sum(1) * 0 + 1, images.sum(1) * 0], dim=1)

    result = attack(Constant(), torch.rand(3, 2, 2), torch.zeros(2, 2).long(), L2(0.5), steps=3)
    assert "zero_gradient" in result.flags


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"restarts": 0}, {"step_size": 0.0}, {"loss": "hinge"}, {"step_size": float("nan")}], ids=str
)
def test_bad_arguments(bad):
    with pytest.raises(ConfigError):
        attack(two_classes(), torch.rand(3, 2, 2), torch.zeros(2, 2).long(), L2(0.5), **bad)


@pytest.mark.parametrize(
    "bad",
    [{"sigma": 0.0}, {"sigma": 0.1, "samples": 0}, {"sigma": 0.1, "votes": 0}, {"sigma": 0.1, "noise": "salt"}],
    ids=str,
)
def test_bad_smoothing(bad):
    with pytest.raises(ConfigError):
        Smoothing(**bad)


def test_nan_logits_and_bad_images():
    model = two_classes()
    with torch.no_grad():
        model.bias[0] = float("nan")
    with pytest.raises(ModelError, match="'x'"):
        attack(model, torch.rand(3, 2, 2), torch.zeros(2, 2).long(), L2(0.5))
    with pytest.raises(DataError):
        attack(two_classes(), torch.rand(3, 2, 2) + 3, torch.zeros(2, 2).long(), L2(0.5))


def test_a_smoothed_model_on_grey_levels_is_attacked_around_the_image_that_is_certified():
    """Rounded first, in the API and in a stage: else the ball of the attack lies about another image."""
    begun = []

    class Recording(PGD):
        def together(self, segmenter, images, *others, **options):
            begun.extend(images)
            return super().together(segmenter, images, *others, **options)

    model, image = two_classes(), torch.full((3, 2, 3), 100.4 / 255)
    target, method = torch.zeros(2, 3).long(), Recording(steps=2, smoothing=Smoothing(sigma=0.25, samples=2, votes=50))
    rounded = torch.full_like(image, 100 / 255)
    certseg.attack(model, image, target, L2(0.001), method, hardware=CPU)
    stage = AttackStage("pgd", method, L2(0.001), model, ("a", "b"), settings={}, seed=0, hardware=CPU)
    stage.run(Sample("x", image, target))
    assert len(begun) == 2
    assert all(torch.equal(start, rounded) for start in begun)
    for other in (PGD(steps=2), PGD(steps=2, smoothing=Smoothing(sigma=0.25, grey_levels=None))):
        assert other.clean(image) is image
    assert method.clean(rounded) is rounded
