from collections import Counter

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietbeam.beamline.bad_projections import find_bad_projections
from quietbeam.beamline.scan import ScanSettings, open_scan
from quietbeam.beamline.simulate import write_dxchange
from quietbeam.beamline.sinograms import (
    SinogramSettings,
    clean_sinograms,
    count_caveats,
    phase_caveats,
    phase_decision,
    refuse_empty,
    sinogram_halo,
)
from quietbeam.reconstruction.errors import ScanError
from quietbeam.reconstruction.normalize import transmission
from quietbeam.reconstruction.phase import PhaseSettings, paganin
from quietbeam.reconstruction.stripes import StripeSettings

from .jobs import small_scan

UNLIT = [0, 1, 14, 15]


@pytest.fixture
def slit_scan(tmp_path):
    """16 rows; a slit keeps the beam from four of them. One pixel of another is dead."""
    path = small_scan(tmp_path / "slit.h5")
    rng = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        for name in ("data", "data_white"):
            frames = file["exchange"][name]
            counts = frames[:]
            dark = rng.normal(100, 2, (len(counts), len(UNLIT), counts.shape[2]))
            counts[:, UNLIT] = np.rint(dark).astype(counts.dtype)
            counts[:, 5, 20] = 0
            frames[:] = counts
    return open_scan(path)


def test_rows_without_beam_are_empty_and_told(slit_scan):
    sinograms, counts = clean_sinograms(slit_scan, slice(0, 16), SinogramSettings())
    assert (sinograms[UNLIT] == 0).all()
    assert counts["unlit rows"] == 4
    assert counts["dead"] == slit_scan.num_projections
    assert counts["not finite"] == 0
    caveats = count_caveats(counts)
    assert [caveat.code for caveat in caveats] == ["unlit-rows"]
    assert caveats[0].message == "4 of the detector rows saw no beam; their slices are empty"


@pytest.mark.parametrize("size", [1, 3, 8])
def test_rows_read_together_do_not_matter(slit_scan, size):
    whole, counts = clean_sinograms(slit_scan, slice(0, 16), SinogramSettings(), num_threads=2)
    parts = [clean_sinograms(slit_scan, slice(i, min(i + size, 16)), SinogramSettings()) for i in range(0, 16, size)]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), whole)
    assert sum((part for _, part in parts), start=type(counts)()) == +counts


@pytest.mark.parametrize("normalised", ["transmission", "attenuation"])
def test_a_row_without_a_finite_value_is_an_empty_beam_path(slit_scan, normalised):
    projections = transmission(
        *(read(slice(0, 16)) for read in (slit_scan.projections, slit_scan.flats, slit_scan.darks))
    )
    path = slit_scan.path
    with h5py.File(path, "r+") as file:
        del file["exchange/data"], file["exchange/data_white"], file["exchange/data_dark"]
        values = projections.values if normalised == "transmission" else -np.log(np.maximum(projections.values, 1e-3))
        file["exchange/data"] = values
    scan = open_scan(path, ScanSettings(normalised=normalised))
    sinograms, counts = clean_sinograms(scan, slice(0, 16), SinogramSettings())
    assert (sinograms[UNLIT] == 0).all()
    assert np.isfinite(sinograms).all()
    assert (counts["empty rows"], counts["not finite"]) == (4, scan.num_projections)


@pytest.fixture(scope="module")
def tall_scan(tmp_path_factory):
    path = small_scan(tmp_path_factory.mktemp("tall") / "tall.h5", num_rows=230, num_columns=32, num_angles=20)
    rng = np.random.default_rng(1)
    with h5py.File(path, "r+") as file:
        for name in ("data", "data_white"):
            counts = file["exchange"][name][:]
            for rows in (slice(0, 20), slice(120, 123)):  # unlit, at the edge and in the middle
                counts[:, rows] = np.rint(rng.normal(100, 2, counts[:, rows].shape))
            counts[:, 60, 7] = 0
            file["exchange"][name][:] = counts
    return open_scan(path)


class TestPhase:
    """A short filter: 1.1 pixels, of which 96 rows on either side matter; the scan has 230."""

    settings = SinogramSettings(phase=PhaseSettings(delta_beta=20, energy=20, distance=0.012))

    def test_the_halo(self, tall_scan):
        assert sinogram_halo(tall_scan, self.settings) == 96
        assert sinogram_halo(tall_scan, SinogramSettings()) == 0

    @pytest.mark.parametrize("size", [1, 5])
    def test_rows_read_together_do_not_matter(self, tall_scan, size):
        """Of the line integrals themselves: ring removal sorts values, and may swap two that are all but equal."""
        settings = self.settings.model_copy(update={"stripes": StripeSettings(method="none")})
        whole, counts = clean_sinograms(tall_scan, slice(0, 230), settings, num_threads=3)
        for start in (0, 18, 59, 118, 122, 225):
            rows = slice(start, start + size)
            part, part_counts = clean_sinograms(tall_scan, rows, settings)
            np.testing.assert_allclose(part, whole[rows], atol=1e-5)
            assert part_counts["all"] == part.size
        parts = [clean_sinograms(tall_scan, slice(k, k + 46), settings) for k in range(0, 230, 46)]
        assert sum((part for _, part in parts), start=type(counts)()) == +counts

    def test_is_paganins_filter_before_the_logarithm(self, tall_scan):
        plain = SinogramSettings(stripes=StripeSettings(method="none"))
        settings = plain.model_copy(update={"phase": self.settings.phase})
        before, _ = clean_sinograms(tall_scan, slice(20, 120), plain)
        after, _ = clean_sinograms(tall_scan, slice(20, 120), settings)
        optics = {"delta_beta": 20, "energy": 20, "distance": 0.012, "pixel_size": 1e-6}
        expected = -np.log(paganin(np.exp(-before).swapaxes(0, 1), **optics)).swapaxes(0, 1)
        np.testing.assert_allclose(
            after[:95], expected[:95], atol=1e-4
        )  # row 119 goes on in the unlit rows, 96 from it
        assert np.abs(after - before).mean() > 0.01

    def test_unlit_rows_stay_empty_and_do_not_bleed(self, tall_scan):
        sinograms, counts = clean_sinograms(tall_scan, slice(0, 230), self.settings)
        assert counts["unlit rows"] == 23
        assert (sinograms[:20] == 0).all()
        assert (sinograms[120:123] == 0).all()
        assert sinograms[119].mean() == pytest.approx(sinograms[110].mean(), rel=0.05)

    def test_is_told(self, tall_scan):
        assert phase_decision(tall_scan, SinogramSettings()) == ()
        (decision,) = phase_decision(tall_scan, self.settings)
        assert decision.value == "paganin, delta/beta 20, 20 keV, 0.012 m"
        assert "length is 1.1 px" in decision.reason

    def test_what_the_scan_does_not_tell(self, tall_scan):
        settings = SinogramSettings(phase=PhaseSettings(delta_beta=20, energy=20))
        with pytest.raises(ScanError, match=r"give --set phase.distance=VALUE \(metres\)$"):
            clean_sinograms(tall_scan, slice(0, 1), settings)

    @pytest.mark.parametrize(
        ("energy", "distance", "told"),
        [
            (20, 0.012, ""),
            (20_000, 0.012, "px long and does next to nothing"),
            (20, 12, "is 34.4 px"),
            (20, 0.8, "px long and blurs much of the 32 columns: is the energy in keV"),
        ],
    )
    def test_numbers_in_other_units_are_doubted(self, tall_scan, energy, distance, told):
        settings = SinogramSettings(phase=PhaseSettings(delta_beta=20, energy=energy, distance=distance))
        if distance == 12:
            with pytest.raises(ScanError, match=f"{told}.* more than the detector's 32 columns"):
                sinogram_halo(tall_scan, settings)
            return
        messages = [f"{code}: {message}" for code, message in phase_caveats(tall_scan, settings)]
        assert bool(messages) == bool(told)
        assert all(told in message and message.startswith("phase-length") for message in messages), messages

    def test_no_phase_no_doubt(self, tall_scan):
        assert phase_caveats(tall_scan, SinogramSettings()) == ()

    def test_line_integrals_are_too_late(self, tall_scan):
        scan = open_scan(tall_scan.path, ScanSettings(normalised="attenuation"))
        with pytest.raises(ScanError, match=r"leave phase.delta_beta out"):
            clean_sinograms(scan, slice(0, 1), self.settings)


def test_a_beam_that_decays_is_followed(tmp_path):
    """Flats before and after; the air beside the sample stays 0 in the line integrals of all projections."""
    rng = np.random.default_rng(2)
    gain, current = rng.uniform(800, 1000, (4, 40)), 1 - 0.004 * np.arange(-3, 63)[:, None, None]
    frames = 100 + current * gain
    path = write_dxchange(
        tmp_path / "decay.h5",
        frames[3:-3],
        frames[[0, 1, 2, -3, -2, -1]],
        np.full((1, 4, 40), 100.0),
        np.arange(60) / 20,
    )
    one_group, _ = clean_sinograms(open_scan(path), slice(0, 4), SinogramSettings())
    with h5py.File(path, "r+") as file:
        file["process/acquisition/flat_fields/flat_field_mode"] = "Both"
        file["process/acquisition/flat_fields/num_flat_fields"] = 3
    followed, _ = clean_sinograms(open_scan(path), slice(0, 4), SinogramSettings())
    assert np.abs(followed).max() < 1e-5
    assert np.abs(one_group).max() > 0.1


class TestBadScience:
    """Each fault is told by a code with its numbers, or refused."""

    @pytest.fixture
    def edited(self, tmp_path):
        path = small_scan(tmp_path / "scan.h5")

        def edit(**changes):
            with h5py.File(path, "r+") as file:
                for name, change in changes.items():
                    frames = file[f"exchange/{name}"][:].astype(np.float32)
                    change(frames)
                    del file[f"exchange/{name}"]
                    file[f"exchange/{name}"] = frames
            scan = open_scan(path)
            sinograms, counts = clean_sinograms(scan, slice(0, 16), SinogramSettings())
            assert np.isfinite(sinograms).all()
            return {caveat.code: caveat.message for caveat in (*scan.caveats, *count_caveats(counts))}

        return edit

    def test_none(self, edited):
        assert edited() == {}

    def test_nan_in_projections(self, edited):
        def spoil(frames):
            frames[3, 2, 5], frames[4, :, 9], frames[5, 2] = np.nan, np.inf, -np.inf

        assert edited(data=spoil) == {"not-finite": "65 values were nan or inf and were interpolated along their row"}

    def test_nan_in_flats_and_darks(self, edited):
        def spoil(frames):
            frames[1, 3, 4:6] = np.nan

        told = edited(data_white=spoil, data_dark=spoil)
        assert told == {"calibration-not-finite": "4 values of the flats and darks are nan or inf and were left out"}

    def test_dark_above_flat(self, edited):
        def spoil(frames):
            frames[:, :, 10:12] += 30_000

        told = edited(data_dark=spoil)
        assert set(told) == {"dark-above-flat"}
        assert told["dark-above-flat"].startswith("4.17% of the detector")

    def test_noise_beside_the_beam_is_no_dark_above_flat(self, edited):
        rng = np.random.default_rng(6)

        def shade(frames):
            frames[:, :, :15] = rng.normal(100, 2, frames[:, :, :15].shape)

        assert set(edited(data=shade, data_white=shade)) == {"many-dead-pixels"}

    def test_zero_flats_in_a_part(self, edited):
        def spoil(frames):
            frames[:, :, 10:15] = 0

        assert set(edited(data_white=spoil)) == {"dark-above-flat"}
        assert set(edited(data_white=spoil, data_dark=spoil)) == {"many-dead-pixels"}

    def test_a_row_of_nan(self, edited):
        def spoil(frames):
            frames[:, 3] = np.nan
            frames[2, 4, 7] = np.inf

        told = edited(data=spoil)
        assert set(told) == {"empty-rows", "not-finite"}
        assert told["empty-rows"] == "1 of the detector rows gave no finite value; its slice is empty"
        assert told["not-finite"].startswith("1 values")

    def test_a_blank_flat_and_a_lit_dark(self, edited):
        def blank(frames):
            frames[4] = 100

        def leak(frames):
            frames[2] += 500

        assert set(edited(data_white=blank, data_dark=leak)) == {"bad-flats", "bad-darks"}


@pytest.mark.parametrize(
    ("normalised", "code", "message"),
    [
        ("transmission", "not-transmission", "the transmission is above 1.2 on 100% of the detector"),
        ("attenuation", "not-line-integrals", "the median of the line integrals is above 20, as 100% are"),
    ],
)
def test_counts_are_not_normalised(tmp_path, normalised, code, message):
    scan = open_scan(small_scan(tmp_path / "scan.h5"), ScanSettings(normalised=normalised))
    _, counts = clean_sinograms(scan, slice(0, 4), SinogramSettings())
    told = {caveat.code: caveat.message for caveat in count_caveats(counts)}
    assert told[code].startswith(message)
    assert "brighter-than-flats" not in told


def test_empty_rows_are_refused_like_other_values(tmp_path):
    with pytest.raises(ScanError, match="60% of the projections' values saw no light or are not finite"):
        refuse_empty(tmp_path, Counter({"all": 100, "empty": 55, "starved": 5}))


@pytest.mark.parametrize("method", ["wavelet-fft", "none"])
def test_rings_that_are_left_are_told(tmp_path, method):
    scan = open_scan(small_scan(tmp_path / "scan.h5", num_angles=20))
    _, counts = clean_sinograms(scan, slice(0, 3), SinogramSettings(stripes=StripeSettings(method=method)))
    told = [caveat.message for caveat in count_caveats(counts) if caveat.code == "rings-left"]
    left = "ring removal left 3 of the slices as they are: too few angles or columns for it, or values too large"
    assert told == ([left] if method == "wavelet-fft" else [])


SPOILT = [np.nan, np.inf, -np.inf, 0, -1, -100, 65535, 1e30, -3e38, 1e-30]


@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0, 0.001, 0.02, 0.3, 1]),
    whole=st.booleans(),
    normalised=st.sampled_from([None, "transmission", "attenuation"]),
    method=st.sampled_from(["all", "sorting", "none"]),
    phase=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_never_nan_whatever_is_measured(tmp_path_factory, seed, share, whole, normalised, method, phase):
    """Single values and whole frames that are nan, infinite, zero, negative or far too large: finite, or refused."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers((1, 2), (7, 40)))  # the phase's filter is 1.7 pixels long

    def frames(number, low, high):
        values = rng.uniform(low, high, (number, *shape)).astype(np.float32)
        values[rng.random(number) < share * whole] = rng.choice(SPOILT)
        spoilt = rng.random(values.shape) < share
        values[spoilt] = rng.choice(SPOILT, spoilt.sum())
        return values

    num_projections = rng.integers(2, 14)
    stacks = frames(num_projections, 200, 900), frames(rng.integers(1, 6), 900, 1000), frames(2, 90, 110)
    path = write_dxchange(tmp_path_factory.getbasetemp() / "spoilt.h5", *stacks, np.arange(num_projections) / 4)
    chosen = SinogramSettings(
        stripes=StripeSettings(method=method),
        phase=PhaseSettings(
            delta_beta=50 if phase and normalised != "attenuation" else None, energy=20, distance=0.1, pixel_size=3e-6
        ),
    )
    try:
        scan = open_scan(path, ScanSettings(normalised=normalised))
        scan = scan.without(*find_bad_projections(scan))
    except ScanError:
        return
    sinograms, counts = clean_sinograms(scan, slice(0, shape[0]), chosen)
    assert sinograms.shape == (shape[0], scan.num_projections, shape[1])
    assert np.isfinite(sinograms).all()
    count_caveats(counts)
