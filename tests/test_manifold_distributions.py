"""Exact distributions: D against Bayes by brute force and finite differences, samples against what they should be."""

import math

import pytest
import torch
from exact import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from ssi_core import InputError
from ssi_core.manifold import (
    DISTRIBUTIONS,
    Curve,
    Mixture,
    Plane,
    RotationModes,
    Rotations,
    RotationTori,
    Sphere,
    SphereModes,
    Spiral,
    circle_of_points,
    distribution,
    gaussian_line,
    hyperplane,
    random_points,
    sliced_wasserstein,
)
from ssi_core.manifold.directional import turned, von_mises

SIGMAS = (0.05, 0.3, 2.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noised(known, count, sigma, seed=1):
    x0 = known.sample(count, generator(seed))
    return x0, x0 + sigma * normal(count, known.dimension, seed=seed + 1), x0.new_full((count,), sigma)


def bayes(x, sigma, points, density):
    """E[x0 | x] over a fine set of points with weights, by summing Bayes' formula as it stands."""
    exponent = density.log() - (x[:, None] - points).square().sum(2) / (2 * sigma[:, None] ** 2)
    share = (exponent - exponent.amax(1, keepdim=True)).exp()
    return (share @ points) / share.sum(1, keepdim=True)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_spiral_against_bayes(sigma):
    known = Spiral()
    u = torch.linspace(1, 13, 60_001, dtype=torch.float64)
    points = torch.stack([u * u.cos(), u * u.sin()], dim=1)
    x0, x, level = noised(known, 40, sigma)
    density = torch.full((len(u),), 1.0, dtype=torch.float64)
    density[[0, -1]] = 0.5  # trapezium
    assert (known.denoise(x, level) - bayes(x, level, points, density)).abs().max() < 1e-4
    assert known.distance(x0).max() < 1e-4


def test_spiral_at_sigmas_that_no_quadrature_resolves():
    known = Spiral()
    x0, x, level = noised(known, 50, known.finest)
    D = known.denoise(x, level)
    assert known.distance(D).max() < 1e-6  # on the chain itself
    assert (D - x0).norm(dim=1).mean() < 1.1 * known.finest
    far = torch.tensor([[40.0, -3.0], [0.0, 0.0]], dtype=torch.float64)  # beyond the end; equally far from a whole arc
    assert known.denoise(far, torch.full((2,), 1e-3).double()).isfinite().all()
    # The farthest end of the chain is what a point beyond it is nearest to.
    beyond = torch.tensor([[13 * math.cos(13.0), 13 * math.sin(13.0)]], dtype=torch.float64) * 3
    assert (known.denoise(beyond, torch.tensor([0.01]).double()) - beyond / 3).norm() < 0.5


def test_spiral_is_refused_where_its_pieces_show():
    """Against a chain of sixteen times the pieces: D differs by a part of sigma down to `finest`, and not below."""
    coarse, fine = Spiral(pieces=512), Spiral(pieces=8192)
    _, x, level = noised(fine, 60, coarse.finest)
    assert (coarse.denoise(x, level) - fine.denoise(x, level)).norm(dim=1).max() < 0.15 * coarse.finest
    with pytest.raises(InputError, match=r"sigma .* lies under .*, where its straight pieces"):
        coarse.denoise(x, level * 0.99)
    assert fine.finest < coarse.finest / 200 and fine.finest < 1e-4 < Spiral().finest < 1.5e-4


def grid_on_sphere(count):
    """Midpoints in height and angle: equal areas (Archimedes)."""
    z = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 - 1
    angle = (torch.arange(2 * count, dtype=torch.float64) + 0.5) / (2 * count) * 2 * math.pi
    z, angle = torch.meshgrid(z, angle, indexing="ij")
    r = (1 - z**2).sqrt()
    return torch.stack([r * angle.cos(), r * angle.sin(), z], dim=2).reshape(-1, 3)


@pytest.mark.parametrize("sigma", (0.2, 1.0))
@pytest.mark.parametrize("kappa", (0.0, 5.0))
def test_sphere_against_bayes(sigma, kappa):
    means = torch.nn.functional.normalize(normal(3, 3, seed=4), dim=1)
    known = SphereModes(means, kappa, [0.2, 0.5, 0.3])
    points = grid_on_sphere(150)
    density = (torch.tensor([0.2, 0.5, 0.3]).double() * (kappa * points @ means.T).exp()).sum(1)
    _, x, level = noised(known, 30, sigma)
    assert (known.denoise(x, level) - bayes(x, level, points, density)).abs().max() < 2e-3


@pytest.mark.parametrize("n", (2, 3))
@pytest.mark.parametrize("sigma", SIGMAS)
def test_rotations_against_bayes(n, sigma):
    known = RotationTori(n, modes=3, kappa=4.0, seed=2)
    angle = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * 2 * math.pi - math.pi
    blocks = turned(n, angle.cos()[:, None], angle.sin()[:, None])
    points = torch.cat([(q @ blocks @ p).flatten(1) for q, p in zip(known.left, known.right, strict=True)])
    density = (4.0 * angle.cos()).exp().repeat(3)
    _, x, level = noised(known, 30, sigma)
    assert (known.denoise(x, level) - bayes(x, level, points, density)).abs().max() < 1e-6


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mixture_against_bayes(sigma):
    known = Mixture(normal(3, 2, seed=3), [0.25, 0.0], [0.5, 0.2, 0.3])
    along = torch.linspace(-6, 6, 6001, dtype=torch.float64) * 0.5
    points = torch.cat([m + torch.stack([along, 0 * along], dim=1) for m in known.means])
    density = (torch.tensor([0.5, 0.2, 0.3]).double()[:, None] * (-(along**2) / 0.5).exp()).flatten()
    _, x, level = noised(known, 40, sigma)
    assert (known.denoise(x, level) - bayes(x, level, points, density)).abs().max() < 1e-6


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_d_is_the_mean_of_what_is_sampled(name):
    """Orthogonality of a conditional expectation: E[(x0 - D(x)) . D(x)] = 0."""
    known = distribution(name)
    for sigma in (0.1, 1.0):
        x0, x, level = noised(known, 2000, sigma)
        D = known.denoise(x, level)
        gap = ((x0 - D) * D).sum(1)
        assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / math.sqrt(2000) + 1e-12


def discrete(name):
    """(points [M, d], their masses [M]) that stand for a distribution at sigmas that are not small."""
    known = distribution(name)
    if name == "spiral":
        u = torch.linspace(1, 13, 20_001, dtype=torch.float64)
        return torch.stack([u * u.cos(), u * u.sin()], dim=1), torch.ones(len(u), dtype=torch.float64)
    if name == "sphere":
        # A golden spiral: equal areas with no pole at a mode.
        k = torch.arange(30_000, dtype=torch.float64) + 0.5
        z, angle = 1 - 2 * k / 30_000, k * math.pi * (3 - math.sqrt(5))
        r = (1 - z**2).sqrt()
        points = torch.stack([r * angle.cos(), r * angle.sin(), z], dim=1)
        return points, (known.kappa * points @ known.means.T).exp().sum(1)
    if name == "line":
        along = torch.linspace(-7, 7, 4001, dtype=torch.float64)
        return torch.stack([along, 0 * along], dim=1), (-(along**2) / 2).exp()
    return known.means, known.weights


@pytest.mark.parametrize("sigma", [0.2, 1.0])
@pytest.mark.parametrize("name", ["five-points", "twenty-points", "line", "spiral", "sphere"])
def test_score_is_the_gradient_of_the_log_density(name, sigma):
    """Autograd of ln sum m_k N(x; p_k, sigma^2): the definition, with neither D nor Tweedie's formula in it."""
    known = distribution(name)
    points, mass = discrete(name)
    _, x, level = noised(known, 20, sigma)
    x.requires_grad_(True)
    log_density = torch.logsumexp(mass.log() - (x[:, None] - points).square().sum(2) / (2 * sigma**2), dim=1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    found = known.score(x.detach(), level)
    assert (found - gradient).abs().max() < 2e-3 * gradient.abs().max() and gradient.norm(dim=1).min() > 0.01


@pytest.mark.parametrize("name", ["eight-points", "spiral", "sphere", "hyperplane"])
def test_jacobian_of_d_is_symmetric_as_of_a_gradient(name):
    known, h = distribution(name), 1e-5
    _, x, level = noised(known, 20, 0.5)
    columns = []
    for i in range(known.dimension):
        step = torch.zeros_like(x)
        step[:, i] = h
        columns.append((known.denoise(x + step, level) - known.denoise(x - step, level)) / (2 * h))
    jacobian = torch.stack(columns, dim=2)
    # sigma^2 times the Hessian of ln p plus 1: symmetric, and a covariance over sigma^2, so positive.
    assert (jacobian - jacobian.mT).abs().max() < 1e-4 * (1 + jacobian.abs().max())
    assert torch.linalg.eigvalsh((jacobian + jacobian.mT) / 2).min() > -1e-4


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(DISTRIBUTIONS)), log_sigma=st.floats(-12, 8), seed=st.integers(0, 1000),
    scale=st.floats(0, 50),
)  # fmt: skip
def test_d_is_finite_and_in_the_convex_hull(name, log_sigma, seed, scale):
    known = distribution(name)
    log_sigma = max(log_sigma, math.log(known.finest or 1e-300) + 1e-9)
    x = known.sample(8, generator(seed)) + scale * normal(8, known.dimension, seed=seed)
    D = known.denoise(x, x.new_full((8,), math.exp(log_sigma)))
    assert D.isfinite().all()
    if name != "line" and name != "hyperplane":  # whose data is unbounded
        reach = known.sample(2000, generator(1)).norm(dim=1).max()
        assert D.norm(dim=1).max() <= reach * (1 + 1e-6) + 0.05


def test_samples_lie_where_they_should():
    for name in DISTRIBUTIONS:
        known = distribution(name)
        x = known.sample(3000, generator(3))
        assert x.shape == (3000, known.dimension) and x.dtype == torch.float64
        assert known.distance(x).max() < 1e-4
    modes = RotationModes(6, 3, 0.1)
    x = modes.sample(6000, generator())
    assert Rotations(6).distance(x).max() < 1e-10
    # Mode k turns k + 1 planes by 60 degrees, each of which takes 1 from the trace of the identity, 6.
    assert modes.centres.diagonal(dim1=1, dim2=2).sum(1).tolist() == pytest.approx([5, 4, 3])
    at = torch.cdist(x, modes.centres.flatten(1)).min(1)
    # |S - C|^2 = |exp(A) - 1|^2 is near |A|^2: 30 entries off the diagonal of deviation .1 each.
    assert float(at.values.square().mean()) == pytest.approx(30 * 0.01, rel=0.05)
    assert torch.bincount(at.indices, minlength=3).div(6000).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    with pytest.raises(InputError, match="no exact denoiser"):
        modes.denoise(torch.zeros(1, 36), torch.ones(1))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_nearest_point_of_the_data(name):
    known = distribution(name)
    x0 = known.sample(60, generator(3))
    x = x0 + 0.1 * normal(60, known.dimension, seed=4) / known.dimension**0.5
    y = known.nearest(x)
    assert (known.nearest(y) - y).norm(dim=1).max() < 1e-6  # it is of the data
    away = (x - y).norm(dim=1)
    # Nothing of the data is nearer: not the point that x was made from, no other sample, and no neighbour of y.
    assert bool((away <= (x - x0).norm(dim=1) + 1e-9).all())
    assert bool((away <= torch.cdist(x, known.sample(5000, generator(5))).amin(1) + 1e-6).all())
    beside = known.nearest(y + 1e-3 * normal(60, known.dimension, seed=6))
    assert bool((away <= (x - beside).norm(dim=1) + 1e-9).all())
    # And the denoiser of a sigma that is small beside the distance leads there.
    level = x.new_full((60,), max(known.finest, 1e-5))
    clear = away > 0.02
    assert ((known.denoise(x, level) - y).norm(dim=1) / away)[clear].max() < 1e-2 and bool(clear.any())


def test_modes_as_narrow_as_you_like():
    angle = von_mises(1e17, (20_000,), generator(1))
    assert float(angle.std()) == pytest.approx(1e-17**0.5, rel=0.05)
    known = distribution("hyperplane")
    assert float(known.variance[0]) == 0.09  # in float64, not by way of float32


@pytest.mark.parametrize("kappa", (0.0, 0.5, 8.0))
def test_von_mises_moments(kappa):
    angle = von_mises(kappa, (40_000,), generator(1))
    k = torch.tensor(kappa, dtype=torch.float64)
    wanted = torch.special.i1e(k) / torch.special.i0e(k)
    assert abs(float(angle.cos().mean() - wanted)) < 0.015 and abs(float(angle.sin().mean())) < 0.015


def test_uniform_rotations_are_haar():
    x = Rotations(4).uniform(20_000, generator()).reshape(-1, 4, 4)
    assert torch.linalg.det(x).sub(1).abs().max() < 1e-9
    assert x.mean(0).abs().max() < 0.02
    # E |tr S|^2 = 1 under Haar measure on SO(n), n > 2.
    assert abs(float(x.diagonal(dim1=1, dim2=2).sum(1).square().mean()) - 1) < 0.06


SURFACES = [Plane(3, 2), Plane(5, 1), Sphere(3), Sphere(6), Rotations(3), Rotations(10)]


@pytest.mark.parametrize("surface", SURFACES, ids=str)
def test_projections_are_idempotent_and_orthogonal(surface):
    x, v = normal(20, surface.ambient, seed=1), normal(20, surface.ambient, seed=2)
    y = surface.project(x)
    assert (surface.project(y) - y).abs().max() < 1e-9
    across = surface.normal_at(y, v)
    assert (surface.normal_at(y, across) - across).abs().max() < 1e-9
    assert ((v - across) * across).sum(1).abs().max() < 1e-9
    # x - project(x) is normal, and the normal space has the codimension.
    gap = x - y
    assert (surface.normal_at(y, gap) - gap).abs().max() < 1e-8
    basis = torch.eye(surface.ambient, dtype=torch.float64)
    rank = torch.linalg.matrix_rank(surface.normal_at(y[:1].expand(surface.ambient, -1), basis), tol=1e-8)
    assert int(rank) == surface.ambient - surface.dimension


def test_tangent_of_rotations_is_where_curves_go():
    surface = Rotations(5)
    y = surface.uniform(6, generator())
    a = normal(6, 5, 5, seed=3)
    moved = (y.reshape(-1, 5, 5) @ torch.matrix_exp(1e-6 * (a - a.mT))).flatten(1)
    speed = (moved - y) / 1e-6
    assert surface.normal_at(y, speed).abs().max() < 1e-4 and speed.norm() > 1


def test_newton_schulz_finds_the_nearest_rotation():
    surface = Rotations(10)
    near = surface.uniform(20, generator()) + 0.08 * normal(20, 100, seed=5)
    assert (surface.nearly(near, rounds=10) - surface.project(near)).abs().max() < 1e-6


def refused():
    yield "modes: 8", lambda: hyperplane(8)
    yield "spread -1", lambda: hyperplane(9, -1)
    yield "modes: 0", lambda: hyperplane(0)
    yield "modes: -4", lambda: hyperplane(-4)
    yield r"modes: 9\.5", lambda: hyperplane(9.5)
    yield "points: 0", lambda: circle_of_points(0)
    yield r"points: 2\.5", lambda: circle_of_points(2.5)
    yield "radius nan", lambda: circle_of_points(3, math.nan)
    yield "points: -2", lambda: random_points(-2, 0)
    yield "seed: -1", lambda: random_points(2, -1)
    yield "dimension: 1", lambda: gaussian_line(1)
    yield "dimension: -3", lambda: gaussian_line(-3)
    yield r"SO\(n\): n: 1", lambda: RotationTori(1)
    yield r"SO\(n\): n: 2.5", lambda: Rotations(2.5)
    yield r"SO\(n\): n: -10", lambda: RotationModes(-10)
    yield "modes: 0", lambda: RotationTori(4, modes=0)
    yield "modes: 'two'", lambda: RotationTori(4, modes="two")
    yield "modes: 0", lambda: RotationModes(4, modes=0)
    yield r"SO\(4\) has 2 planes", lambda: RotationModes(4, modes=3)
    yield "spread", lambda: RotationModes(4, modes=2, spread=0)
    yield "spread nan", lambda: RotationModes(4, modes=2, spread=math.nan)
    yield "kappa", lambda: SphereModes(torch.eye(3), -1)
    yield "kappa 'much'", lambda: SphereModes(torch.eye(3), "much")
    yield "means of shape", lambda: SphereModes(torch.eye(2))
    yield "means hold NaN", lambda: SphereModes(torch.full((1, 3), math.nan))
    yield "means hold NaN", lambda: Mixture(torch.full((2, 2), math.nan))
    yield "means of shape", lambda: Mixture(torch.zeros(0, 2))
    yield "found str", lambda: Mixture("points")
    yield "variance", lambda: Mixture(torch.zeros(1, 2), [1.0, math.inf])
    yield r"dimension: 1\.5", lambda: Plane(3, 1.5)
    yield "ambient dimension: -3", lambda: Plane(-3, 1)
    yield "samples: -5", lambda: circle_of_points(3).sample(-5, generator())
    yield r"samples: 10\.0", lambda: Spiral().sample(10.0, generator())
    yield "points: -1", lambda: Sphere(3).uniform(-1, generator())
    yield r"matrices of SO\(3\): shape \(2, 8\)", lambda: Rotations(3).matrices(torch.zeros(2, 8))
    yield r"SO\(3\): shape \(2, 8\)", lambda: Rotations(3).project(torch.zeros(2, 8))
    yield r"shape \(2, 3, 3\)", lambda: Rotations(3).project(torch.zeros(2, 3, 3))
    yield "rows of 3 numbers", lambda: Sphere(3).project(torch.zeros(2, 4))
    yield "rows of 2 numbers", lambda: Spiral().denoise(torch.zeros(2, 3), torch.ones(2))
    yield "one for each of 2 rows", lambda: Spiral().denoise(torch.zeros(2, 2), torch.ones(1))
    yield "sigma 0; must be positive", lambda: circle_of_points(3).denoise(torch.zeros(2, 2), torch.zeros(2))
    yield (
        "sigma nan; must be positive",
        lambda: circle_of_points(3).score(torch.zeros(1, 2), torch.full((1,), math.nan)),
    )
    yield "pieces: 1", lambda: Spiral(pieces=1)
    yield "directions: 0", lambda: sliced_wasserstein(torch.ones(2, 2), torch.ones(2, 2), directions=0)
    yield "samples of shape", lambda: sliced_wasserstein(torch.ones(0, 2), torch.ones(0, 2))
    yield "variance", lambda: Mixture(torch.zeros(1, 2), [1.0])
    yield "variance", lambda: Mixture(torch.zeros(1, 2), [1.0, math.nan])
    yield "weights", lambda: Mixture(torch.zeros(2, 2), weights=[1.0, -1.0])
    yield "means of shape", lambda: Mixture(torch.zeros(3))
    yield "plane: dimension 3 in R\\^3", lambda: Plane(3, 3)
    yield "sphere: dimensions of the space around it: 1", lambda: Sphere(1)
    yield "no uniform", lambda: Plane(3, 2).uniform(5, generator())
    yield "unknown; known are five-points", lambda: distribution("torus")
    yield "range 1..1 is empty", lambda: Curve(lambda u: u, 1, 1)
    yield "stands still", lambda: Curve(lambda u: torch.ones(len(u), 2, dtype=torch.float64), 0, 1)
    yield "gave shape", lambda: Curve(lambda u: u, 0, 1)


@pytest.mark.parametrize(("message", "make"), list(refused()))
def test_what_makes_no_sense_is_refused(message, make):
    with pytest.raises(InputError, match=message):
        make()


def test_points_off_the_manifold_are_told_with_their_distance():
    x = Sphere(3).uniform(5, generator())
    x[3] *= 1.25
    with pytest.raises(InputError, match=r"row 3 lies 0\.25 away"):
        Sphere(3).require(x)
    with pytest.raises(InputError, match="modes: not on the manifold"):
        SphereModes(2 * torch.eye(3))
