from __future__ import annotations

import numpy as np
import pytest

from quietbeam.compress.autoencoder import AutoencoderSettings, CnnCodec
from quietbeam.compress.generalisation import fine_tune, generalisation, split_slices

from .volumes import foam

SETTINGS = AutoencoderSettings(width=4, batch_size=2, steps_per_epoch=10, crop_size=64, epochs=5, latent_channels=8)


@pytest.fixture(scope="module")
def trained() -> CnnCodec:
    return CnnCodec.fit(foam((6, 64, 64), num_voids=20), SETTINGS)


def error(built: CnnCodec, volume: np.ndarray) -> float:
    return float(np.square(built.decode(built.encode(volume), volume.shape) - volume).mean())


@pytest.mark.parametrize(("num_slices", "ends"), [(10, (6, 8)), (128, (77, 102)), (3, (2, 2)), (1, (1, 1))])
def test_slices_are_split_60_20_20_without_gap(num_slices: int, ends: tuple[int, int]) -> None:
    if ends[0] == ends[1]:
        with pytest.raises(ValueError, match="leave none to train, validate or test on"):
            split_slices(num_slices, SETTINGS)
        return
    split = split_slices(num_slices, SETTINGS)
    parts = [index for part in split for index in range(num_slices)[part]]
    assert parts == list(range(num_slices))
    assert (split.validation.start, split.test.start) == ends


def test_fine_tuning_starts_from_the_weights_and_leaves_the_codec_as_it_is(trained: CnnCodec) -> None:
    other = 5 - 3 * foam((6, 64, 64), num_voids=30, seed=1)
    before = trained.to_bytes()
    moved = CnnCodec.for_volume(other, SETTINGS, seed=0, start=trained)
    tuned = fine_tune(trained, other, SETTINGS)
    fresh = CnnCodec.for_volume(other, SETTINGS, seed=0)
    assert trained.to_bytes() == before
    # Weights and latents are those of the codec that was trained, mean and standard deviation those of the volume.
    assert moved.to_bytes()[18:] == before[18:] != tuned.to_bytes()[18:]
    assert moved.to_bytes()[2:18] != before[2:18]
    assert error(tuned, other) < error(moved, other) < error(fresh, other)


def test_fine_tuning_takes_the_width_of_the_codec(trained: CnnCodec) -> None:
    other = foam((3, 64, 64), num_voids=30, seed=1)
    wider = SETTINGS.model_copy(update={"width": 8, "latent_channels": 4, "epochs": 1})
    assert fine_tune(trained, other, wider).num_parameters == trained.num_parameters


def test_the_table_has_each_volume_before_and_after_fine_tuning() -> None:
    volumes = {"a": foam((10, 40, 40), num_voids=20), "b": 1 - foam((10, 48, 40), num_voids=10, seed=1)}
    rows = generalisation(CnnCodec, volumes, "a", SETTINGS.model_copy(update={"epochs": 1}), fine_tuning=SETTINGS)
    assert [(row.volume, row.weights) for row in rows] == [("a", "trained"), ("b", "as they are"), ("b", "fine-tuned")]
    assert rows[2].psnr > rows[1].psnr
    assert all(row.ms_ssim is None and row.bits_per_voxel > 0 for row in rows)


@pytest.mark.slow
def test_ms_ssim_is_there_where_slices_are_large_enough() -> None:
    volumes = {"a": foam((5, 168, 168), num_voids=60)}
    rows = generalisation(CnnCodec, volumes, "a", SETTINGS)
    assert len(rows) == 1
    assert rows[0].ms_ssim is not None
    assert 0 < rows[0].ms_ssim < 1


def test_an_unknown_volume_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="trained_on must be one of a, b, got 'c'"):
        generalisation(CnnCodec, {"a": np.zeros((5, 8, 8)), "b": np.zeros((5, 8, 8))}, "c", SETTINGS)
