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


def documented_parameters(text: str) -> list[str]:
    """Names under the heading Parameters; several may stand in a line, with or without a type."""
    lines = iter(inspect.cleandoc(text).splitlines())
    for line in lines:
        if line == "Parameters" and set(next(lines)) == {"-"}:
            break
    names: list[str] = []
    for line in lines:
        if line and set(line) == {"-"}:  # of the next heading
            return names[:-1]
        if line and not line[0].isspace():
            names += (name.strip(" *") for name in line.split(" : ")[0].split(","))
    return names


def mistaken_parameters(module: ModuleType) -> list[str]:
    """Functions and methods whose docstring names other parameters than their signature does."""
    found = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    own = {name: value for name, value in found.items() if getattr(value, "__module__", "") == module.__name__}
    for name, value in list(own.items()):
        if inspect.isclass(value):
            methods = {key: inspect.unwrap(getattr(one, "__func__", one)) for key, one in vars(value).items()}
            own |= {f"{name}.{key}": one for key, one in methods.items() if inspect.isfunction(one) and key[0] != "_"}
    mistaken = []
    for name, value in own.items():
        documented = documented_parameters(own_docstring(value)) if callable(value) else []
        names = inspect.signature(value).parameters.keys() - {"self", "cls"} if documented else set()
        if sorted(documented) != sorted(names):
            mistaken.append(f"{name}: {', '.join(documented)}")
    return mistaken


def test_doctests(module: ModuleType) -> None:
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


def test_public_names_are_listed_and_documented(module: ModuleType) -> None:
    if not hasattr(module, "__path__"):
        assert module.__all__, "a module lists its public names in __all__"
    assert undocumented(module) == []


def test_parameters_are_documented_by_their_names(module: ModuleType) -> None:
    assert mistaken_parameters(module) == []


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


def test_mistaken_parameters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    source = '''
__all__ = ["good", "bad", "Class"]
def good(a, b, *more, c=1, **rest):
    """Do.

    Parameters
    ----------
    a, b : int
        Numbers: of what.
    *more
        Others.
    c : int
        Number.
    **rest
        Others.

    Returns
    -------
    int
        Number.
    """
def bad(a, b):
    """Do.

    Parameters
    ----------
    a : int
        Number.
    full : int
        Number.
    """
class Class:
    """Documented."""
    @classmethod
    def make(cls, a, b):
        """Make.

        Parameters
        ----------
        a
            Number.
        """
'''
    made = ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", made)
    exec(source, vars(made))
    assert mistaken_parameters(made) == ["bad: a, full", "Class.make: a"]
