"""The radius of an object: against every choice of pixels to change, and against a network whose answers are known."""

import itertools
import math

import numpy as np
import torch
from support.audited_pixels import CPU, three_classes

from certseg.certifiers import Lipschitz
from certseg.compute.streams import NoiseStream
from certseg.lipschitz.worst_case import object_radii
from certseg.metrics import ObjectCounts, ObjectRegions
from certseg.types import Sample


def test_radii_are_those_of_the_cheapest_choice_of_pixels():
    generator = np.random.default_rng(0)
    for _ in range(30):
        costs = torch.from_numpy(generator.random(9) ** 3)
        right = torch.from_numpy(generator.random(9) < 0.8)
        regions = torch.from_numpy(generator.integers(-1, 2, size=9))
        areas = np.array([int((regions == index).sum()) for index in range(2)])
        share = float(generator.choice([0.25, 0.5, 0.7, 1.0]))
        found = object_radii(costs, right, regions, areas, share, 2.0)
        for index in range(2):
            mine = (regions == index).nonzero()[:, 0].tolist()
            prices = [float(costs[i]) if right[i] else 0.0 for i in mine]
            lost = [
                sum(chosen)
                for number in range(len(mine) + 1)
                for chosen in itertools.combinations(prices, number)
                if len(mine) - number < share * len(mine) - 1e-9
            ]
            least = math.sqrt(min(lost)) / 2.0 if lost else math.inf
            assert found[index] == least or 0 <= least - found[index] <= 1e-9 * least


def objects_and_network(share):
    """Two objects of 12 pixels with a few wrong ones, the network, and their counts."""
    network = three_classes()
    generator = torch.Generator().manual_seed(3)
    image = 0.5 + 0.1 * torch.randn(3, 4, 6, generator=generator)
    answer = network(image[None]).argmax(dim=1)[0]
    target = answer.mode(dim=1, keepdim=True).values.expand(4, 6).clone()
    numbers = torch.tensor([1, 1, 2, 2])[:, None].expand(4, 6).clone()
    target[:2], target[2:] = target[0, 0], target[2, 0]
    sample = Sample("a", image, target, numbers)
    certificate = Lipschitz(radius=0.02, radii=()).certify(network, image, stream=NoiseStream(0, "a"), hardware=CPU)
    counts = ObjectCounts.of_certificate(
        ObjectRegions.of(target, 3, numbers), target, certificate, certificate.certified, share
    )
    return network, sample, counts


def cheapest_loss(network, sample, index, share):
    """The perturbation of least norm that loses one object of linear pixels, and its norm: each pixel is moved straight
    to the nearest boundary, the cheapest first."""
    image, weight, bias = sample.image.double(), network.weight.detach().double(), network.bias.detach().double()
    logits = torch.einsum("kc,chw->khw", weight, image) + bias[:, None, None]
    moves = []
    mine = (sample.objects == index + 1).nonzero().tolist()
    wrong = 0
    for row, column in mine:
        pixel, own = logits[:, row, column], int(sample.target[row, column])
        if int(pixel.argmax()) != own:
            wrong += 1
            continue
        directions = [(weight[other] - weight[own], pixel[own] - pixel[other]) for other in range(3) if other != own]
        step = min((gap / apart.norm() ** 2 * apart for apart, gap in directions), key=torch.Tensor.norm)
        moves.append((float(step.norm()), row, column, step))
    needed = len(mine) - math.ceil(share * len(mine)) + 1 - wrong
    moves.sort(key=lambda move: move[0])
    perturbation = torch.zeros_like(image)
    for _, row, column, step in moves[: max(0, needed)]:
        perturbation[:, row, column] = step
    return perturbation


def test_an_object_is_lost_just_above_its_radius_and_not_below():
    for share in (0.25, 0.5, 0.75, 1.0):
        network, sample, counts = objects_and_network(share)
        for index, radius in enumerate(counts.radii):
            perturbation = cheapest_loss(network, sample, index, share)
            assert math.isclose(radius, float(perturbation.norm()), rel_tol=1e-3, abs_tol=1e-4)
            for factor, is_kept in ((1.01, False), (0.98, True)):
                moved = (sample.image.double() + factor * perturbation).float()
                prediction = network(moved[None]).argmax(dim=1)[0]
                kept = ObjectCounts.of_prediction(sample, prediction, 3).kept(share)[index]
                assert kept == (is_kept and radius > 0)


def test_an_object_of_certified_pixels_has_a_larger_radius():
    """What single pixels keep is kept by their joint cost, too, and that keeps more."""
    for share in (0.25, 0.4, 0.5):
        _, _, counts = objects_and_network(share)
        assert counts.certainly_kept(share).any() or share == 0.5
        assert (counts.radii[counts.certainly_kept(share)] > 0.02).all()
