"""Resizing, windows and probability averages, against computations by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from certseg.models.inference import label_edges, log_mean_softmax, rescale, rescale_labels, scaled_size, slide


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [((360, 480), 0.5, (180, 240)), ((361, 481), 0.5, (180, 240)), ((5, 3), 0.01, (1, 1)), ((7, 9), 1.5, (10, 14))],
)
def test_scaled_size(size, scale, expected):
    assert scaled_size(size, scale) == expected


def test_scale_one_is_the_identity():
    x = torch.rand(1, 3, 5, 7)
    assert rescale(x, 1.0) is x


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_integer_factors_average_blocks(factor):
    x = torch.rand(2, 3, 5 * factor, 7 * factor)
    expected = x.view(2, 3, 5, factor, 7, factor).mean(dim=(3, 5))
    assert torch.allclose(rescale(x, 1 / factor), expected, atol=1e-6)


def test_block_average_divides_noise_by_the_factor():
    noise = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    # 4 * 3 * 64 * 64 samples: the relative standard error of a standard deviation is 1 / sqrt(2 n) = 0.0032
    assert rescale(noise, 0.5).std() == pytest.approx(0.5, rel=4 * 0.0032)


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.5, 2.0])
def test_constants_stay_and_gradients_sum_to_the_number_of_outputs(scale):
    x = torch.full((1, 3, 31, 45), 0.3, requires_grad=True)
    small = rescale(x, scale)
    assert small.shape[-2:] == scaled_size((31, 45), scale)
    assert torch.allclose(small, torch.full_like(small, 0.3), atol=1e-6)
    small.sum().backward()
    assert x.grad.sum().item() == pytest.approx(small.numel(), rel=1e-4)


@pytest.mark.parametrize(("size", "scale"), [((8, 12), 0.5), ((31, 45), 0.5), ((31, 45), 0.7), ((9, 9), 1.6)])
def test_labels_are_those_of_the_nearest_pixel(size, scale):
    labels = torch.arange(size[0] * size[1]).view(1, *size)
    result = rescale_labels(labels, scale)
    expected = F.interpolate(labels[None].double(), size=scaled_size(size, scale), mode="nearest-exact")[0].long()
    assert torch.equal(result, expected)


def test_every_pixel_is_in_a_window_and_windows_average():
    counts = torch.zeros(1, 1, 23, 31)
    x = torch.rand(2, 3, 23, 31)
    shapes = set()

    def network(window):
        shapes.add(tuple(window.shape[-2:]))
        return torch.cat([window, window.new_ones(2, 1, *window.shape[-2:])], dim=1)

    result = slide(network, x, 4, (10, 12), (7, 5))
    assert torch.allclose(result[:, :3], x, atol=1e-6)  # the mean of equal values
    assert torch.allclose(result[:, 3:], torch.ones_like(counts).expand(2, 1, 23, 31))
    assert shapes == {(10, 12)}


def test_log_mean_softmax_survives_extreme_logits():
    logits = torch.tensor([[[[200.0]], [[-200.0]]]]), torch.tensor([[[[-200.0]], [[200.0]]]])
    assert torch.allclose(log_mean_softmax(logits), torch.full((1, 2, 1, 1), 0.5).log())
    one_sided = log_mean_softmax([logits[0], logits[0]])
    assert one_sided.isfinite().all()
    assert one_sided[0, 1].item() == pytest.approx(-400.0)


def test_log_mean_softmax_is_float32_for_half_precision():
    x = torch.randn(1, 3, 2, 2)
    result = log_mean_softmax([x.bfloat16(), -x.bfloat16()])
    assert result.dtype == torch.float32
    assert torch.allclose(result.exp().sum(1), torch.ones(1, 2, 2), atol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 4])
def test_edges_are_those_of_mmsegmentation(width):
    from certseg.models import mmseg_library

    with mmseg_library.quiet_import():
        from mmseg.datasets.transforms import GenerateEdge
    labels = np.random.default_rng(0).choice([0] * 40 + [1, 2, 255], size=(24, 32)).astype(np.int64)
    expected = GenerateEdge(edge_width=width)({"img_shape": labels.shape, "gt_seg_map": labels})["gt_edge_map"]
    assert 0 < expected.mean() < 1
    assert np.array_equal(label_edges(torch.from_numpy(labels)[None], width)[0].numpy(), expected)
