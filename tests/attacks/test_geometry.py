import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from certseg.attacks import geometry
from certseg.attacks.geometry import Ball, ascent_direction, perturbation_norm, project, random_start, sparse_direction
from certseg.errors import ConfigError
from certseg.types import L1, L2, Linf, Patch


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([L1, L2, Linf]),
    radius=st.floats(1e-4, 20.0),
    size=st.floats(0.0, 3.0),
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(3, 1, 1), (3, 5, 7), (3, 40, 33)]),
)
def test_projection_holds_the_budget_and_the_box_in_float64(kind, radius, size, seed, shape):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(shape, generator=generator)
    threat = kind(radius)
    candidate = image + size * torch.randn(shape, generator=generator)
    ball = Ball(image, threat)
    for point in (ball.project(candidate), ball.enter(candidate.clone())):
        assert perturbation_norm(point, image, threat) <= radius
        assert float(point.min()) >= 0
        assert float(point.max()) <= 1


@pytest.mark.parametrize("threat", [L1(1.0), L2(0.5), Linf(0.1)])
def test_projection_leaves_feasible_points_alone(threat):
    image = torch.full((3, 4, 4), 0.5)
    inside = image + 0.05 * torch.eye(4)
    assert torch.equal(project(inside, image, threat), inside)


def test_linf_projection_is_the_nearest_point():
    image = torch.tensor([0.5, 0.05, 0.98]).reshape(3, 1, 1)
    point = project(torch.tensor([0.9, -1.0, 2.0]).reshape(3, 1, 1), image, Linf(0.1))
    assert point.flatten().tolist() == pytest.approx([0.6, 0.0, 1.0], abs=1e-6)


def test_l2_projection_reaches_the_sphere():
    image = torch.full((3, 8, 8), 0.5)
    threat = L2(0.3)
    point = project(image + 0.1 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)), image, threat)
    assert perturbation_norm(point, image, threat) == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("radius", [0.169, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("overshoot", [1.1, 2.0])  # at 0.001 rounding lengthens the first and shortens the second
def test_short_l2_perturbations_reach_the_sphere_in_a_few_evaluations(radius, overshoot, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    image = 0.2 + 0.6 * torch.rand(3, 360, 480, generator=generator)  # the box does not bind
    direction = torch.randn(3, 360, 480, generator=generator)
    candidate = image + direction * (overshoot * radius / direction.norm())
    evaluations = []

    def counted(*arguments):
        assert len(evaluations) < 10, "too many norms"
        evaluations.append(perturbation_norm(*arguments))
        return evaluations[-1]

    monkeypatch.setattr(geometry, "perturbation_norm", counted)
    point = project(candidate, image, L2(radius))
    assert len(evaluations) <= 4
    assert (1 - 1e-5) * radius <= perturbation_norm(point, image, L2(radius)) <= radius
    assert float(point.min()) >= 0
    assert float(point.max()) <= 1
    wanted = image.double() + (candidate.double() - image.double()) * (radius / evaluations[0])
    assert float((point - wanted).abs().max()) <= 2**-24 * 2  # every entry is a float32 neighbour of its own value


@pytest.mark.parametrize("radius", [0.5, 0.01, 0.001])
def test_entering_the_ball_is_nearly_as_good_as_projecting(radius):
    generator = torch.Generator().manual_seed(0)
    image = 0.2 + 0.6 * torch.rand(3, 60, 80, generator=generator)  # the box does not bind
    direction = torch.randn(3, 60, 80, generator=generator)
    unit = direction / direction.norm()
    ball = Ball(image, L2(radius))
    outside = ball.enter(image + 3 * radius * unit)
    assert (1 - 2e-4) * radius <= perturbation_norm(outside, image, L2(radius)) <= radius
    inside = image + 0.5 * radius * unit
    assert torch.allclose(ball.enter(inside.clone()), inside, atol=1e-6)
    linf = Ball(image, Linf(radius))
    assert torch.equal(linf.enter(inside + 1.0), linf.project(inside + 1.0))


def test_a_tiny_gradient_still_gives_a_unit_step():
    gradient = torch.tensor([3.0, -4.0, 0.0]).reshape(3, 1, 1) * 1e-30  # squares of these are 0 in float32
    assert ascent_direction(gradient, L2(1.0)).flatten().tolist() == pytest.approx([0.6, -0.8, 0.0])


@pytest.mark.parametrize("threat", [L2(0.5), Linf(0.1)])
def test_a_zero_gradient_gives_a_zero_step(threat):
    assert not ascent_direction(torch.zeros(3, 2, 2), threat).any()


def test_directions_are_steepest():
    gradient = torch.tensor([3.0, -4.0, 0.0]).reshape(3, 1, 1)
    assert ascent_direction(gradient, L2(1.0)).flatten().tolist() == pytest.approx([0.6, -0.8, 0.0])
    assert ascent_direction(gradient, Linf(1.0)).flatten().tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("threat", [L1(4.0), L2(0.5), Linf(0.1)])
def test_random_starts_differ_and_fit(threat):
    image = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(1))
    starts = [random_start(image, threat, torch.Generator().manual_seed(s)) for s in (1, 2)]
    assert not torch.equal(*starts)
    assert all(perturbation_norm(start, image, threat) <= threat.radius for start in starts)


def test_other_threats_are_refused():
    image = torch.rand(3, 2, 2)
    for call in (project, perturbation_norm):
        arguments = (image, image, Patch(share=0.1))
        with pytest.raises(ConfigError, match="L1, L2 or Linf"):
            call(*arguments)
    with pytest.raises(ConfigError, match="L2 or Linf"):
        ascent_direction(image, L1(1.0))


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf"), "8/255"])
def test_threats_check_their_radius(radius):
    with pytest.raises(ConfigError, match="radius"):
        L2(radius)


def nearest_by_bisection(candidate, image, radius):
    """The nearest point in the l1 ball and [0, 1], from the optimality conditions: 200 halvings of the multiplier."""
    delta, image = candidate.double() - image.double(), image.double()
    low, high = 0.0, float(delta.abs().max())

    def at(amount):
        return (image + delta.sign() * (delta.abs() - amount).clamp_min(0)).clamp(0, 1)

    if (at(0.0) - image).abs().sum() <= radius:
        return at(0.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (at(middle) - image).abs().sum() > radius else (low, middle)
    return at(high)


@settings(max_examples=100, deadline=None)
@given(
    radius=st.floats(1e-3, 30.0),
    size=st.floats(1e-3, 3.0),
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(3, 1, 1), (3, 5, 7), (3, 40, 33)]),
    ties=st.booleans(),
)
def test_l1_projection_is_the_nearest_point(radius, size, seed, shape, ties):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(shape, generator=generator)
    candidate = image + size * torch.randn(shape, generator=generator)
    if ties:  # equal entries, entries on the sides of the box, entries that do not move
        image, candidate = (image * 4).round() / 4, (candidate * 4).round() / 4
    point = project(candidate, image, L1(radius))
    nearest = nearest_by_bisection(candidate, image, radius)
    assert float((point - nearest).abs().max()) <= 2e-6 * max(1.0, radius)
    assert torch.equal(point == image, (point - image).abs() == 0)
    length = perturbation_norm(nearest, image, L1(radius))
    assert length - 1e-7 - 2e-6 * radius <= perturbation_norm(point, image, L1(radius)) <= radius


@pytest.mark.parametrize("seed", range(5))
def test_l1_projection_agrees_with_a_solver(seed):
    """The quadratic program itself, in rises and falls of every entry, for six entries."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 1, 2, generator=generator)
    candidate = image + torch.randn(3, 1, 2, generator=generator)
    wanted, centre = (tensor.double().numpy().ravel() for tensor in (candidate - image, image))
    solution = minimize(
        lambda z: 0.5 * np.square(z[:6] - z[6:] - wanted).sum(),
        np.zeros(12),
        method="SLSQP",
        jac=lambda z: np.concatenate([z[:6] - z[6:] - wanted, wanted - z[:6] + z[6:]]),
        bounds=[(0, 1 - x) for x in centre] + [(0, x) for x in centre],
        constraints=[LinearConstraint(np.ones((1, 12)), -np.inf, 0.8)],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    point = project(candidate, image, L1(0.8)).double().numpy().ravel() - centre
    np.testing.assert_allclose(point, solution.x[:6] - solution.x[6:], atol=1e-5)


def test_l1_projection_of_many_entries_reaches_the_sphere():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 120, 160, generator=generator)
    for radius in (0.01, 3.0, 500.0):
        point = project(image + torch.randn(3, 120, 160, generator=generator), image, L1(radius))
        assert (1 - 1e-5) * radius <= perturbation_norm(point, image, L1(radius)) <= radius


def test_sparse_steps_take_the_largest_entries_that_can_move():
    gradient = torch.tensor([5.0, -4.0, 3.0, -2.0, 1.0, 0.0]).reshape(3, 1, 2)
    point = torch.tensor([0.5, 0.0, 0.5, 0.5, 0.5, 0.5]).reshape(3, 1, 2)  # the second cannot move: it goes along
    assert sparse_direction(gradient, point, 2).flatten().tolist() == [0.5, -0.5, 0.5, 0, 0, 0]
    assert sparse_direction(gradient, point, 100).flatten().tolist() == [0.25, -0.25, 0.25, -0.25, 0.25, 0]
    tied = torch.tensor([2.0, 1.0, -1.0]).reshape(3, 1, 1)
    assert sparse_direction(tied, torch.full((3, 1, 1), 0.5), 2).flatten().tolist() == [0.5, 0.5, 0.0]
    assert not sparse_direction(torch.zeros(3, 2, 2), torch.rand(3, 2, 2), 3).any()


@pytest.mark.parametrize("threat", [L2(1.0), L2(0.01), L2(50.0), Linf(0.03), Linf(1.0)])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-35, 0.0])
def test_compiled_steps_are_those_of_torch(threat, scale):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 37, 41, generator=generator)
    image[0, 0, :5], image[1, 0, :5] = 0.0, 1.0
    ball, steps = Ball(image, threat), []
    previous, point = (ball.enter(image + 0.1 * torch.randn(image.shape, generator=generator)) for _ in range(2))
    gradient = scale * torch.randn(image.shape, generator=generator)
    gradient[2, :3] = 0.0
    for last, inertia in ((None, 0.25), (previous, 0.0), (previous, 0.25)):
        for length in (2.0 * threat.radius, 0.01 * threat.radius):
            arguments = (point, gradient, length, last, inertia)
            step, other = ball._ascend_compiled(*arguments), ball._ascend(*arguments)
            assert torch.equal(ball.ascend(*arguments), step)
            assert float((step - other).abs().max()) <= 3e-6 * max(1.0, threat.radius)
            assert perturbation_norm(step, image, threat) <= threat.radius
            assert float(step.min()) >= 0
            assert float(step.max()) <= 1
            steps.append(step)
    assert scale == 0 or not torch.equal(steps[0], point)


def test_compiled_steps_read_images_in_any_layout():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(12, 9, 3, generator=generator)
    gradient = torch.randn(3, 12, 9, generator=generator)
    strided, plain = pixels.permute(2, 0, 1), pixels.permute(2, 0, 1).contiguous()
    for threat in (L2(0.5), Linf(0.1)):
        one = Ball(strided, threat).ascend(strided, gradient, 0.3, strided, 0.25)
        assert torch.equal(one, Ball(plain, threat).ascend(plain, gradient, 0.3, plain, 0.25))


def test_an_l1_candidate_far_beyond_a_tiny_ball_is_projected():
    """Distances of 1e5 cancel in float64 by more than a radius of 1e-9: no rounding can mend that, the target must."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        image = torch.rand(3, 1, 1, generator=generator)
        far = 10.0 ** float(torch.randint(1, 6, (), generator=generator))
        threat = L1(10.0 ** -float(torch.randint(7, 11, (), generator=generator)))
        point = project(image + far * torch.randn(3, 1, 1, generator=generator), image, threat)
        assert perturbation_norm(point, image, threat) <= threat.radius
        assert point.min() >= 0
        assert point.max() <= 1
