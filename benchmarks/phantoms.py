"""Simulating: placing the voids of a foam, projecting it and drawing its truth; of an unchanging and of a moving one.

CPU time on one thread, two rays per pixel along each side; the truth has as many slices as the detector rows. ASTRA
projects one drawn slice by interpolation, which is not exact; the comparison is per slice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rows import Row, arguments, cpu_seconds, report

from quietbeam.reconstruction.dynamic_phantom import moving_foam, project_dynamic
from quietbeam.reconstruction.foam import foam_phantom
from quietbeam.reconstruction.phantom import project_foam, rasterise_foam
from quietbeam.reconstruction.projectors import make_projector


def main() -> None:
    """Time each step once after one call that compiles."""
    options = arguments(__doc__)
    num_voids, num_angles, size = (100, 8, 32) if options.tiny else (10_000, 512, 256)
    theta = np.pi * np.arange(num_angles) / num_angles
    times = np.linspace(0, 1, num_angles)
    foam = foam_phantom(num_voids, seed=0)
    moving = moving_foam(foam, seed=0)
    steps: dict[str, Callable[[], object]] = {
        "place the voids": lambda: foam_phantom(num_voids, seed=0),
        "project": lambda: project_foam(foam, theta, size, size),
        "draw the truth": lambda: rasterise_foam(foam, size, size),
        "project while it moves": lambda: project_dynamic(moving, theta, times, size, size),
    }
    case = f"{num_voids} voids, {num_angles} projections of {size} x {size} pixels"
    rows = [Row(case, "quietbeam", name, cpu_seconds(work, repeats=2), "s") for name, work in steps.items()]
    astra = make_projector("astra", theta, (size - 1) / 2, size)
    drawn = rasterise_foam(foam, size, size)[size // 2]
    one_slice = {"quietbeam": rows[1].value / size, "ASTRA": cpu_seconds(lambda: astra.forward(drawn), repeats=2)}
    rows += [Row(case, name, "project one slice", 1e3 * value, "ms") for name, value in one_slice.items()]
    report(rows, options.json)


if __name__ == "__main__":
    main()
