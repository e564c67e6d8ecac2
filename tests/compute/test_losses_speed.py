"""What losses compute in ways of their own for speed, against torch."""

import pytest
import torch
import torch.nn.functional as F

from certseg.attacks.losses import Pixels
from certseg.compute.decisions import decide


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(1, 5, 150, 230), (3, 4, 130, 131), (2, 3, 1, 1)])  # some are shared out
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_decision_is_argmax_on_any_number_of_threads(shape, dtype, threads):
    logits = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).round().to(dtype)  # full of ties
    for given in (logits, logits.contiguous(memory_format=torch.channels_last)):
        classes, checks = decide(given)
        assert torch.equal(classes.long(), logits.argmax(dim=1))
        assert checks.shape == shape[:1]
        assert torch.isfinite(checks).all()


def test_float64_logits_are_not_rounded():
    logits = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)[None, :, None, None]
    assert decide(logits)[0].item() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("pixel", [(0, 0), (149, 229)])
def test_a_logit_that_is_not_finite_is_reported_for_its_image(value, pixel, threads):
    logits = torch.randn(2, 5, 150, 230, generator=torch.Generator().manual_seed(0))
    logits[0, 3, 7, 7] = -torch.inf  # a class that is switched off
    assert torch.isfinite(decide(logits)[1]).all()
    logits[1, 2, pixel[0], pixel[1]] = value
    assert torch.isfinite(decide(logits)[1]).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cross_entropy_is_that_of_torch(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(2, 6, 9, 7, generator=generator, dtype=dtype)).requires_grad_()
    target = torch.randint(6, (2, 9, 7), generator=generator)
    target[:, :2] = 255
    weight = torch.rand(2, 9, 7, generator=generator, dtype=dtype)
    values = Pixels(logits, target).cross_entropy
    expected = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
    torch.testing.assert_close(values, expected)
    gradients = [torch.autograd.grad((part * weight).sum(), logits)[0] for part in (values, expected)]
    torch.testing.assert_close(*gradients)
    assert not gradients[0][:, :, :2].any()
