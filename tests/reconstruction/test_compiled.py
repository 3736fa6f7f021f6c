from __future__ import annotations

import pytest
from numba.core import caching

from quietbeam.reconstruction.compiled import compiled


def add_one(x: float) -> float:
    return x + 1


def test_a_function_is_compiled_and_kept() -> None:
    made = compiled()(add_one)
    assert made(2.0) == 3.0
    assert made.stats.cache_path is not None  # type: ignore[attr-defined]


def test_without_a_folder_to_keep_it_in_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    made = compiled()(add_one)
    assert made(2.0) == 3.0
    assert made.stats.cache_path is None  # type: ignore[attr-defined]
