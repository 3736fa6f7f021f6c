"""Simulated scans with a known rotation axis."""

import numpy as np

from quietbeam.reconstruction.phantom import foam_phantom, project_foam

WIDTH = 160


def half_turn(num_angles=200):
    return np.arange(num_angles) * np.pi / num_angles


def full_turn(num_angles=200):
    return np.arange(num_angles) * 2 * np.pi / num_angles


def foam(theta, axis, *, num_rows=4, width=WIDTH, radius=None, noise=0.02, rings=0.0, seed=0, num_spheres=120):
    """Line integrals of a foam, at most 2, with white noise and rings: float32, shape (row, angle, column)."""
    rng = np.random.default_rng(seed)
    radius = 0.9 * min(axis, width - 1 - axis) if radius is None else radius
    sample = foam_phantom(num_spheres, seed=seed, height=0.5)
    sinograms = project_foam(sample, theta, num_rows, width, rotation_axis=axis, radius=radius).swapaxes(0, 1)
    sinograms = sinograms + noise * rng.normal(size=sinograms.shape) + rings * rng.normal(size=(num_rows, 1, width))
    return sinograms.astype(np.float32)


def white_noise(num_rows=4, num_angles=90, width=WIDTH, seed=0):
    return np.random.default_rng(seed).normal(size=(num_rows, num_angles, width)).astype(np.float32)
