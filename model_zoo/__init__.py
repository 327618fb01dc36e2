"""Registry of the model packages in this folder.

A model package is a folder whose ``model.py`` has a class under ``@register("Name")``;
``model: Name`` in YAML selects it. They are imported on the first look-up, so that
importing a layer does not import FuxiCTR.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

_MODELS: dict[str, type] = {}
_FOLDED: dict[str, type] = {}
FIRST_FOLDED = "QIN"  # whose folded files of version 1 are
_Model = TypeVar("_Model", bound=type)


def register(name: str) -> Callable[[_Model], _Model]:
    """Class decorator: make a model available under ``name``.

    Raises:
        ValueError: If another class already has that name.
    """

    def decorate(cls: _Model) -> _Model:
        if _MODELS.get(name, cls) is not cls:
            raise ValueError(f"model name '{name}' is already taken by {_MODELS[name]}")
        _MODELS[name] = cls
        return cls

    return decorate


def available_models() -> list[str]:
    """Names of all registered models, sorted."""
    _import_all("model")
    return sorted(_MODELS)


def get_model(name: str) -> type:
    """The model class registered under ``name``.

    Raises:
        ValueError: If there is none; the message names the known ones.
    """
    known = available_models()
    if name not in known:
        nearest = get_close_matches(name, known, n=1)
        hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
        raise ValueError(f"model '{name}' is not registered{hint}; known: {', '.join(known)}")
    return _MODELS[name]


def register_folded(name: str) -> Callable[[_Model], _Model]:
    """Class decorator: the folded form of the model ``name``, in its package's ``folded.py``."""

    def decorate(cls: _Model) -> _Model:
        _FOLDED[name] = cls
        return cls

    return decorate


def get_folded(name: str) -> type:
    """The folded form of the model ``name``; importing it needs torch only.

    Raises:
        ValueError: If there is none; the message names the known ones.
    """
    known = folding_models()
    if name not in known:
        raise ValueError(f"model '{name}' has no folded form; known: {', '.join(known)}")
    return _FOLDED[name]


def folding_models() -> list[str]:
    """Names of the models that have a folded form, sorted."""
    _import_all("folded")
    return sorted(_FOLDED)


def folded_name(cls: type) -> str:
    """The name of the model whose folded form ``cls`` is."""
    return next(name for name, folded in _FOLDED.items() if folded is cls)


def _import_all(module: str) -> None:
    """Import a module of every model package.

    By looking at files: FuxiCTR installs folders of its own under this name, which register
    nothing, and some of which fail when they are imported.
    """
    for folder in map(Path, __path__):
        for file in sorted(folder.glob(f"*/{module}.py")):
            if file.parent.name != "core":  # there the contract stands
                importlib.import_module(f"{__name__}.{file.parent.name}.{module}")
