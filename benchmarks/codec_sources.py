"""The sources' learned codecs on our volumes: their findings, their networks, their trade-off point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
from codec_rates import method
from numpy.typing import NDArray
from rows import Row

from quietbeam.compress.autoencoder import AeCodec, CnnCodec, DcaeCodec
from quietbeam.compress.codec import codec, learned_codec
from quietbeam.compress.crae2 import Crae2Codec, Crae2Settings, float32_latents
from quietbeam.compress.generalisation import generalisation
from quietbeam.compress.inr import InrSettings, parameter_count
from quietbeam.compress.rate_distortion import RatePoint, measure
from quietbeam.compress.tradeoff import configurations, find_tradeoff
from quietbeam.reconstruction.porosity import otsu_threshold, porosity

__all__ = ["WIDTHS", "compare_crae", "compare_learned", "compare_transfer", "find_inr_tradeoff"]

Array = NDArray[np.float32]

SIZES = {"dcnn": (2, 4, 8), "vqvae": (2, 4, 8)}
PLAIN = ("ae", "cnn", "dcae", "crae2")
BATCH = 8
"""Crops in one step of training: the source's 128 leave a minute of one core too few steps."""
PATCH = 64
WIDTHS = (30, 110, 230)
EVERY_JPEG = tuple(range(2, 96, 3))


def compare_learned(name: str, volume: Array, minutes: float) -> list[Row]:
    """Train each learned codec for the same time; our codec and JPEG stand beside them."""
    case = f"{name}: learned codecs, {minutes:g} CPU minutes of training each"
    rows = list(_reference_rows(case, volume))
    for codec_name in (*SIZES, *PLAIN):
        for depth in SIZES.get(codec_name, (None,)):
            setting = f", latents of depth {depth}" if depth else ""
            rows += _learned_rows(
                case, f"{codec_name}{setting}", codec_name, _options(codec_name, depth), volume, minutes
            )
    return rows


def _options(name: str, depth: int | None) -> dict[str, int]:
    return {"latent_depth": depth} if depth else {}


def _reference_rows(case: str, volume: Array) -> Iterable[Row]:
    for psnr in (30.0, 40.0):
        fitted = codec("lattice").fit(volume, codec("lattice").settings_type.model_validate({"psnr": psnr}))
        yield from _rows(case, f"{method('lattice')}, {psnr:g} dB", fitted, volume)
    for quality in (10, 50, 90):
        fitted = codec("jpeg").fit(volume, codec("jpeg").settings_type.model_validate({"quality": quality}))
        yield from _rows(case, f"jpeg, quality {quality}", fitted, volume)


def _learned_rows(
    case: str, label: str, name: str, options: Mapping[str, int], volume: Array, minutes: float
) -> list[Row]:
    kind = learned_codec(name)
    training = {"minutes": minutes, "epochs": None, "batch_size": BATCH, "crop_size": _crop(volume)}
    fitted = kind.fit(volume, kind.settings_type.model_validate(training | options))
    rows = _rows(case, label, fitted, volume)
    rows.append(Row(case, label, "decoder", len(fitted.to_bytes()) / 1000, "kB"))
    print(f"  {label}: {', '.join(f'{row.metric} {row.value:.4g}' for row in rows)}", flush=True)
    return rows


def _crop(volume: Array) -> int:
    """Largest multiple of 32 that a slice holds, at most 128."""
    return max(min(min(volume.shape[1:]) // 32 * 32, 128), 32)


def _rows(case: str, label: str, fitted: object, volume: Array) -> list[Row]:
    point, span = measure(fitted, volume), float(np.ptp(volume))  # type: ignore[arg-type]
    threshold = otsu_threshold(volume)
    decoded = np.concatenate([fitted.decode(fitted.encode(part), part.shape) for part in _parts(volume)])  # type: ignore[attr-defined]
    pores = 100 * (porosity(decoded, threshold) - porosity(volume, threshold))
    values = {
        ("rate", "bits/voxel"): point.bits_per_voxel,
        ("PSNR", "dB"): point.psnr,
        ("SSIM", ""): point.ssim,
        ("MS-SSIM", ""): point.ms_ssim,
        ("MSE", "1e-6 range²"): 1e6 * 10 ** (-point.psnr / 10),
        ("MSLE", "1e-6 range²"): 1e6 * point.msle / span**2,
        ("pores, off by", "% of the volume"): pores,
        ("decode", "MB/s"): point.decode_rate,
    }
    return [Row(case, label, metric, value, unit) for (metric, unit), value in values.items() if value is not None]


def _parts(volume: Array) -> list[Array]:
    return np.array_split(volume, max(len(volume) // 16, 1))


def compare_crae(name: str, volume: Array, minutes: float) -> list[Row]:
    """CRAE on full slices and on patches; with importance; its float32 latents; JPEG at the size of these."""
    case = f"{name}: CRAE, {minutes:g} CPU minutes of training each"
    full = max(-(-max(volume.shape[1:]) // 32) * 32, 32)
    rows = []
    plans = {
        "crae2, full slices": {"crop_size": full, "batch_size": 2},
        f"crae2, patches of {_crop(volume)}": {"crop_size": _crop(volume), "batch_size": BATCH},
        "crae2, patches, importance": {"crop_size": _crop(volume), "batch_size": BATCH, "importance": True},
    }
    for label, options in plans.items():
        settings = Crae2Settings.model_validate({"width": 64, "minutes": minutes} | options)
        rows += _rows(case, label, Crae2Codec.fit(volume, settings), volume)
    settings = Crae2Settings(width=64, minutes=minutes, crop_size=_crop(volume), batch_size=BATCH, rate_weight=0.0)
    floats = float32_latents(volume, settings)
    rows.append(Row(case, "CRAE, float32 latents", "rate", floats.bits_per_voxel, "bits/voxel"))
    rows.append(Row(case, "CRAE, float32 latents", "PSNR", floats.psnr, "dB"))
    rows += _jpeg_of_size(case, volume, floats.bits_per_voxel)
    return rows


def _jpeg_of_size(case: str, volume: Array, bits: float) -> list[Row]:
    """JPEG with the highest quality that takes no more than so many bits per voxel."""
    kind, best = codec("jpeg"), None
    some = volume[:: max(len(volume) // 16, 1)]
    for quality in EVERY_JPEG:
        fitted = kind.fit(volume, kind.settings_type.model_validate({"quality": quality}))
        if measure(fitted, some).bits_per_voxel > bits and best is not None:
            break
        best = fitted
    return _rows(case, "jpeg at that size", best, volume)


def compare_transfer(volumes: Mapping[str, Array], minutes: float) -> list[Row]:
    """Train each of Fettah's systems on the first volume, test on the others, fine-tune, augment."""
    trained_on, rows = next(iter(volumes)), []
    crop = min(_crop(volume) for volume in volumes.values())
    for kind in (AeCodec, CnnCodec, DcaeCodec):
        for augment in (False, True):
            options = {"minutes": minutes, "epochs": None, "crop_size": crop, "batch_size": 4, "augment": augment}
            settings = kind.settings_type.model_validate(options)
            case = f"trained on {trained_on}, {minutes:g} CPU minutes{', mirrored and turned' if augment else ''}"
            for row in generalisation(kind, volumes, trained_on, settings):  # type: ignore[arg-type]
                label = f"{kind.name}, {row.weights}"
                rows.append(Row(case, label, f"PSNR of {row.volume}", row.psnr, "dB"))
                if row.ms_ssim is not None:
                    rows.append(Row(case, label, f"MS-SSIM of {row.volume}", row.ms_ssim, ""))
    return rows


def find_inr_tradeoff(name: str, volume: Array, *, epochs: int, widths: Sequence[int] = WIDTHS) -> list[Row]:
    """Fit the INR to one patch with each downsampling, number of channels and width, and choose."""
    middle = [slice((n - min(n, PATCH)) // 2, (n + min(n, PATCH)) // 2) for n in volume.shape]
    patch = np.ascontiguousarray(volume[tuple(middle)])
    case = f"{name}: INR on a patch of {' x '.join(map(str, patch.shape))}, {epochs} epochs"
    points, rows = [], []
    for ds, channels, width in product((2, 4, 8), (4, 8, 16), widths):
        chosen = {"downsampling": ds, "channels": channels, "width": width, "epochs": epochs}
        settings = InrSettings.model_validate(chosen | {"sampled_voxels": 32768})
        setting = f"1/{ds}, NC {channels}, h {width}"
        point = measure(codec("inr").fit(patch, settings), patch, chunk_slices=len(patch), setting=setting)
        points.append(point)
        rows += _inr_rows(case, setting, point, parameter_count(width, channels, ds))
        print(f"  {setting}: {point.bits_per_voxel:.3f} bits/voxel, {point.psnr:.2f} dB", flush=True)
    found = find_tradeoff(configurations(points))
    for label, chosen in (("trade-off point", found.nearest), ("knee", found.knee)):
        rows.append(Row(case, f"{label}: {chosen.name}", "rate", chosen.size, "bits/voxel"))
        rows.append(Row(case, f"{label}: {chosen.name}", "PSNR", chosen.quality, "dB"))
    fitted = codec("lattice").fit(patch, codec("lattice").settings_type.model_validate({"psnr": found.nearest.quality}))
    ours = measure(fitted, patch, chunk_slices=len(patch))
    return [*rows, *_inr_rows(case, method("lattice"), ours, None)]


def _inr_rows(case: str, label: str, point: RatePoint, parameters: int | None) -> list[Row]:
    rows = [
        Row(case, label, "rate", point.bits_per_voxel, "bits/voxel"),
        Row(case, label, "PSNR", point.psnr, "dB"),
        Row(case, label, "encode", point.encode_seconds, "s"),
        Row(case, label, "decode", point.decode_seconds, "s"),
    ]
    return rows if parameters is None else [Row(case, label, "parameters", parameters, ""), *rows]
