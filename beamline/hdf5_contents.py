"""Small things read out of an HDF5 file: texts, numbers, quantities with their units, and where the frames are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from quietbeam.reconstruction.errors import ScanError

from .angles import parse_unit
from .hdf5_frames import Axes, Hdf5Frames, find_frames
from .hdf5_links import Place, data_files, list_names, locate, open_hdf5
from .recording import Angles, ScanSettings

__all__ = ["Hdf5Contents"]

_MAX_NUMBERS = 10_000_000
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "nm": 1e-9}
_KEV = {"ev": 1e-3, "kev": 1.0, "mev": 1e3, "gev": 1e6}
# Lengths and energies as files spell them, in metres and keV.
_UNITS = {
    "m": _METRES | {"microns": 1e-6, "micrometer": 1e-6, "micrometre": 1e-6, "meter": 1.0, "metre": 1.0},
    "keV": _KEV,
}


@dataclass(frozen=True)
class Hdf5Contents:
    """One file, and the folders that its links may lead to; nothing is kept open."""

    path: Path
    roots: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, settings: ScanSettings) -> Hdf5Contents:
        """Look at a file; its own folder is always allowed."""
        return cls(path, (path.parent, path.resolve().parent, *settings.allowed_link_roots))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Absolute paths of all that is in the file, links included."""
        return list_names(self.path)

    def find(self, inner: str) -> Place | None:
        """Follow the links to an object; None if it is not there, `ScanError` if a link is broken."""
        return locate(Place(self.path, inner), self.roots)

    def has(self, inner: str) -> bool:
        """Tell whether there is something of this name; a broken link counts, since it says what was meant."""
        try:
            return self.find(inner) is not None
        except ScanError:
            return inner in self.names

    def same_object(self, inner: str, place: Place) -> bool:
        """Tell whether a name leads, through links, to this place."""
        try:
            return self.find(inner) == place
        except ScanError:
            return False

    def frames(self, inner: str, axes: Axes | None = None) -> Hdf5Frames:
        """Find frames that must be there."""
        place = self.find(inner)
        if place is None:
            raise ScanError(f"{self.path} has no dataset {inner}; is it the file with the frames?")
        return find_frames(place, self.roots, axes)

    def optional_frames(self, inner: str) -> Hdf5Frames | None:
        """Find frames, or None."""
        return None if self.find(inner) is None else self.frames(inner)

    def shape(self, inner: str) -> tuple[int, ...] | None:
        """Shape of a dataset; None if it is none, or cannot be reached."""
        try:
            place = self.find(inner)
            if place is None:
                return None
            with open_hdf5(place.path) as file:
                found = file[place.inner]
                return found.shape if isinstance(found, h5py.Dataset) else None
        except ScanError:
            return None

    def numbers(self, inner: str) -> NDArray[np.float64]:
        """Read a one-dimensional dataset of numbers that must be there."""
        place = self.find(inner)
        if place is None:
            raise ScanError(f"{self.path} has no dataset {inner}")
        data_files(place, self.roots)
        with open_hdf5(place.path) as file:
            dataset = file[place.inner]
            if dataset.dtype.kind not in "uif" or dataset.size is None or dataset.size > _MAX_NUMBERS:
                raise ScanError(f"{place} holds {dataset.dtype} of shape {dataset.shape}, expected a list of numbers")
            return np.asarray(dataset[()], np.float64).reshape(-1)

    def angles(self, inner: str) -> Angles | None:
        """Read angles with their unit, or None if they are not there."""
        if self.find(inner) is None:
            return None
        unit = parse_unit(self.text_attribute(inner, "units"))
        return Angles(self.numbers(inner), unit, f"{self.path.name}:{inner}", self._file_of(inner))

    def _file_of(self, inner: str) -> Path:
        place = self.find(inner)
        return self.path if place is None else place.path

    def text(self, inner: str) -> str | None:
        """Read a short text, or None."""
        try:
            value = self._small(inner)
        except ScanError:
            return None
        return _as_text(value)

    def quantity(self, inners: tuple[str, ...], unit: str) -> float | None:
        """Read the first of several datasets that holds a positive number with a known unit, in 'm' or 'keV'.

        A number without a unit is not used: guessing would be wrong by a factor of a thousand.
        """
        for inner in inners:
            try:
                value, spelled = self._small(inner), self.text_attribute(inner, "units")
            except ScanError:
                continue
            factor = _UNITS[unit].get((spelled or "").strip().lower())
            number = _as_number(value)
            if factor is not None and number is not None and number > 0:
                return number * factor
        return None

    def text_attribute(self, inner: str, name: str) -> str | None:
        """Read an attribute that is a text, or None."""
        return _as_text(self._attribute(inner, name))

    def number_attribute(self, inner: str, name: str) -> float | None:
        """Read an attribute that is a number, or a text that spells one, or None."""
        return _as_number(self._attribute(inner, name))

    def _attribute(self, inner: str, name: str) -> Any:
        place = self.find(inner)
        if place is None:
            return None
        with open_hdf5(place.path) as file:
            return file[place.inner].attrs.get(name)

    def _small(self, inner: str) -> Any:
        """Read a dataset of one element; None if it is not there or larger."""
        place = self.find(inner)
        if place is None:
            return None
        with open_hdf5(place.path) as file:
            found = file[place.inner]
            small = isinstance(found, h5py.Dataset) and found.size == 1 and not found.is_virtual and not found.external
            return found[()] if small else None


def _as_text(value: Any) -> str | None:
    element = _element(value)
    text = element.decode(errors="replace") if isinstance(element, bytes) else element
    return text.strip() or None if isinstance(text, str) else None


def _as_number(value: Any) -> float | None:
    element = _element(value)
    text = element.decode(errors="replace") if isinstance(element, bytes) else element
    if isinstance(text, str) and not re.fullmatch(r"\s*[-+]?\d+(\.\d*)?([eE][-+]?\d+)?\s*", text):
        return None
    if not isinstance(text, str | int | float | np.number):
        return None
    number = float(text)
    return number if np.isfinite(number) else None


def _element(value: Any) -> Any:
    """Take the only element of an array."""
    array = np.asarray(value) if isinstance(value, np.ndarray) else None
    if array is None:
        return value
    return array.reshape(-1)[0] if array.size == 1 else None
