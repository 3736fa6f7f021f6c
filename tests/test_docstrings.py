from __future__ import annotations

import doctest
import importlib
import inspect
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("beamline", "compress", "noise2inverse", "reconstruction")
MODULES = sorted(
    "quietbeam." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def own_docstring(value: object) -> str:
    """Give a docstring that somebody wrote: neither inherited nor made by the dataclass decorator."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    made = inspect.isclass(value) and is_dataclass(value) and (text or "").startswith(f"{value.__name__}(")
    return "" if made or not text else text


def undocumented(module: ModuleType) -> list[str]:
    missing = [] if module.__doc__ else [module.__name__]
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if (inspect.isclass(value) or inspect.isroutine(value)) and not own_docstring(value).strip():
            missing.append(name)
        if inspect.isclass(value) and value.__module__ == module.__name__:
            methods = {key: one for key, one in vars(value).items() if inspect.isfunction(one) and key[0] != "_"}
            missing += [f"{name}.{key}" for key, one in methods.items() if not one.__doc__]
    return missing


def test_doctests(module: ModuleType) -> None:
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_public_names_are_listed_and_documented(module: ModuleType) -> None:
    if not module.__name__.removeprefix("quietbeam.").isidentifier():
        assert module.__all__, "a module lists its public names in __all__"
    assert undocumented(module) == []


def test_missing_docstrings_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    source = '''
from dataclasses import dataclass
__all__ = ["Bare", "Data", "Good", "good", "bare"]
class Bare: ...
@dataclass
class Data:
    x: int
class Good:
    """Documented."""
    def method(self): ...
def good():
    """Documented."""
def bare(): ...
'''
    made = ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", made)
    exec(source, vars(made))
    assert undocumented(made) == ["made", "Bare", "Data", "Good.method", "bare"]
