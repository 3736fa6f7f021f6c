import numpy as np
import pytest

from quietbeam.reconstruction.gridrec import gridrec
from quietbeam.reconstruction.phantom import foam_phantom, project_foam, rasterise_foam
from quietbeam.reconstruction.projectors import make_projector
from quietbeam.reconstruction.quality import psnr
from quietbeam.reconstruction.reconstructors import circle
from quietbeam.reconstruction.tv import BALANCE, _gradient, _transposed_gradient, total_variation, tv_min

SIZE, AXIS, NUM_ANGLES = 48, 25.3, 24
THETA = np.arange(NUM_ANGLES) * np.pi / NUM_ANGLES
GAIN = 5.0
"""Decibel that total variation gains at least over gridrec from few noisy projections of a foam."""
ROUNDING = 1e-4
"""Relative, after some hundred iterations in single precision."""


def scan(num_rows=1, *, num_photons=None, seed=0):
    """Sinograms of a foam, shape (row, angle, column), and its slices."""
    foam = foam_phantom(60, seed=1, height=1.0, min_radius=0.08, max_radius=0.3)
    scale = {"radius": 0.43 * SIZE, "attenuation": 0.6 / (0.43 * SIZE)}
    truth = rasterise_foam(foam, num_rows, SIZE, **scale)
    rays = project_foam(foam, THETA, num_rows, SIZE, rotation_axis=AXIS, **scale)
    if num_photons:
        counts = np.random.default_rng(seed).poisson(num_photons * np.exp(-rays))
        rays = -np.log(counts / num_photons)
    return np.ascontiguousarray(rays.swapaxes(0, 1), dtype=np.float32), truth


def noise(num_rows=1, seed=0):
    return np.random.default_rng(seed).normal(size=(num_rows, NUM_ANGLES, SIZE)).astype(np.float32)


def minimise(sinograms, weight, **options):
    return tv_min(sinograms, THETA, AXIS, weight=weight, **options)


def test_divergence_is_the_adjoint_of_the_gradient():
    rng = np.random.default_rng(2)
    image, field = rng.normal(size=(13, 16)), rng.normal(size=(2, 13, 16))
    assert np.vdot(_gradient(image), field) == pytest.approx(np.vdot(image, _transposed_gradient(field)))
    # The bound of its norm is met by checkerboards, in the limit of a large slice.
    board = np.indices((64, 64)).sum(axis=0) % 2 - 0.5
    assert 7.8 < np.sum(_gradient(board) ** 2) / np.sum(board**2) < 8


def test_total_variation_of_a_square():
    """One pixel of each side holds both differences: (4 k - 2 + sqrt 2) times the height."""
    slices = np.zeros((2, 12, 14), np.float32)
    slices[1, 3:8, 4:9] = 3
    np.testing.assert_allclose(total_variation(slices), [0, 3 * (4 * 5 - 2 + np.sqrt(2))], rtol=1e-6)


def test_least_squares_reproduces_the_data():
    sinograms, _ = scan()
    matrix = make_projector("nufft", THETA, AXIS, SIZE)
    image = minimise(sinograms, 0.0, num_iterations=400).slices[0]
    measured = make_projector("nufft", THETA, AXIS, SIZE).forward(image)
    other = minimise(measured[None], 0.0, num_iterations=400).slices[0]
    assert np.linalg.norm(matrix.forward(other) - measured) < 0.003 * np.linalg.norm(measured)


def test_a_large_weight_leaves_the_constant_that_fits_best():
    sinogram = noise()[0, :, :16] + 5
    ones = make_projector("nufft", THETA, 7.1, 16).forward(np.ones((16, 16), np.float32))
    level = np.vdot(ones, sinogram) / np.vdot(ones, ones)
    slices = tv_min(sinogram[None], THETA, 7.1, weight=100.0, num_iterations=2000).slices
    np.testing.assert_allclose(slices, level, rtol=0.01)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_gap_bounds_the_distance_to_the_minimum_and_falls(nonnegative):
    sinograms, _ = scan(num_photons=1000)
    result = minimise(sinograms, 0.05, num_iterations=1000, nonnegative=nonnegative)
    objective, gap = result.objective[0], result.gap[0]
    assert (gap > 0).all()
    lowest = objective.min()
    assert (objective - lowest <= gap).all()
    assert gap[-1] < 1e-3 * lowest
    assert gap[-1] < 0.02 * gap[100] < 0.02 * gap[10]
    assert objective[-1] < objective[100] < objective[10]
    if nonnegative:
        assert result.slices.min() >= 0
    else:
        assert result.slices.min() < 0


def test_iterations_are_those_of_the_paper():
    """Algorithm 4 of Sidky, Jørgensen, Pan, written out with matrices in double precision and a step for each part."""
    size, theta, weight = 7, np.array([0.1, 0.9, 2.0]), 0.4
    projector = make_projector("nufft", theta, 2.8, size)
    pixels = np.eye(size**2, dtype=np.float32).reshape(-1, size, size)
    A = np.stack([projector.forward(pixel).ravel() for pixel in pixels], axis=1).astype(float)
    D = np.stack([_gradient(pixel).ravel() for pixel in pixels], axis=1).astype(float)
    g = np.random.default_rng(4).normal(size=len(A))
    tau = BALANCE / np.linalg.norm(A, 2) ** 2
    sigma_p, sigma_q = 1 / (2 * BALANCE), 1 / (2 * 8 * tau)
    u = ahead = np.zeros(size**2)
    p, q = np.zeros(len(A)), np.zeros((2, size**2))
    for _ in range(8):
        p = (p + sigma_p * (A @ ahead - g)) / (1 + sigma_p)
        q = q + sigma_q * (D @ ahead).reshape(2, -1)
        q = weight * q / np.maximum(weight, np.hypot(*q))
        before, u = u, u - tau * (A.T @ p + D.T @ q.ravel())
        ahead = 2 * u - before
    sinograms = g.reshape(1, len(theta), size).astype(np.float32)
    found = tv_min(sinograms, theta, 2.8, weight=weight, num_iterations=8).slices
    np.testing.assert_allclose(found.ravel(), u, atol=ROUNDING * np.abs(u).max())


def test_objective_is_what_it_says():
    sinograms, _ = scan(2, num_photons=1000)
    result = minimise(sinograms, 0.05, num_iterations=7)
    matrix = make_projector("nufft", THETA, AXIS, SIZE)
    for row, image in enumerate(result.slices):
        misfit = np.sum((matrix.forward(image) - sinograms[row]) ** 2, dtype=float) / 2
        assert result.objective[row, -1] == pytest.approx(misfit + 0.05 * total_variation(image), rel=ROUNDING)
    assert result.objective.shape == result.gap.shape == (2, 7)


def test_total_variation_falls_and_misfit_grows_with_the_weight():
    sinograms, _ = scan(num_photons=1000)
    weights = (0.003, 0.01, 0.03, 0.1, 0.3)
    results = [minimise(sinograms, weight, num_iterations=300) for weight in weights]
    variation = np.array([total_variation(result.slices[0]) for result in results])
    misfit = [result.objective[0, -1] for result in results] - np.array(weights) * variation
    assert (np.diff(variation) < 0).all()
    assert (np.diff(misfit) > 0).all()


@pytest.mark.parametrize("projector", ["nufft", "astra"])
def test_few_noisy_projections_of_a_foam(projector):
    sinograms, truth = scan(3, num_photons=2000)
    inside = circle(SIZE) > 0
    plain = psnr(truth[:, inside], gridrec(sinograms, THETA, AXIS)[:, inside])
    slices = minimise(sinograms, 0.1, num_iterations=200, projector=projector).slices
    assert psnr(truth[:, inside], slices[:, inside]) > plain + GAIN


def test_projectors_give_the_same_slices():
    sinograms, _ = scan(num_photons=2000)
    nufft, astra = (minimise(sinograms, 0.05, projector=name).slices for name in ("nufft", "astra"))
    assert np.linalg.norm(nufft - astra) < 0.1 * np.linalg.norm(nufft)  # edges between pixels


@pytest.mark.parametrize("projector", ["nufft", "astra"])
def test_slices_do_not_depend_on_each_other_or_on_threads(projector):
    sinograms = noise(3)
    options = {"num_iterations": 6, "projector": projector}
    together = minimise(sinograms, 0.1, **options)
    threaded = minimise(sinograms, 0.1, **options, num_threads=3)
    for part, same in zip(together, threaded, strict=True):
        np.testing.assert_array_equal(part, same)
    for row in range(3):
        for part, alone in zip(together, minimise(sinograms[row : row + 1], 0.1, **options), strict=True):
            np.testing.assert_array_equal(part[row], alone[0])


def test_slices_scale_with_the_sinograms_and_the_weight():
    sinograms = noise()
    small, large = minimise(sinograms, 0.3, num_iterations=50), minimise(1000 * sinograms, 300.0, num_iterations=50)
    np.testing.assert_allclose(large.slices, 1000 * small.slices, atol=ROUNDING * 1000 * np.abs(small.slices).max())
    np.testing.assert_allclose(large.gap, 1e6 * small.gap, rtol=ROUNDING)


def test_nothing_in_nothing_out():
    result = minimise(np.zeros((2, NUM_ANGLES, SIZE), np.float32), 0.1, num_iterations=5)
    for part in result:
        assert not part.any()


def test_sinograms_are_left_alone():
    sinograms = noise()
    before = sinograms.copy()
    assert minimise(sinograms, 0.1, num_iterations=2).slices.dtype == np.float32
    np.testing.assert_array_equal(sinograms, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sinograms": noise()[0]}, r"shape \(row, angle, column\)"),
        ({"sinograms": noise().astype(float)}, "must be float32"),
        ({"sinograms": noise()[:0]}, "not empty"),
        ({"sinograms": np.full_like(noise(), np.nan)}, "finite"),
        ({"theta": THETA[1:]}, r"got shape \(23,\)"),
        ({"theta": THETA + np.inf}, "finite"),
        ({"rotation_axis": 48.0}, r"rotation_axis must lie in \[0, 48\), got 48"),
        ({"weight": -0.1}, "weight must be 0 or more"),
        ({"weight": np.nan}, "weight must be 0 or more"),
        ({"num_iterations": 0}, "num_iterations 1 or more"),
        ({"projector": "radon"}, "nufft, astra or astra-cuda"),
        ({"num_threads": 0}, "num_threads"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"sinograms": noise(), "theta": THETA, "rotation_axis": AXIS, "weight": 0.1, "num_iterations": 1}
    with pytest.raises(ValueError, match=message):
        tv_min(**arguments | change)
