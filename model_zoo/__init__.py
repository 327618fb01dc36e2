"""Registry of the model packages in this folder.

A model package is a folder whose ``model.py`` has a class under ``@register("Name")``;
``model: Name`` in YAML selects it. They are imported on the first look-up, so that
importing a layer does not import FuxiCTR. A family (``register_family``) is a number of models
from elsewhere, ``model: Family/Name``, each loaded when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TypeVar


class _Family(NamedTuple):
    names: Callable[[], list[str]]
    load: Callable[[str], type]


_MODELS: dict[str, type] = {}
_FAMILIES: dict[str, _Family] = {}
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


def register_family(
    prefix: str, *, names: Callable[[], list[str]], load: Callable[[str], type]
) -> None:
    """Make models available as ``prefix/name``.

    Args:
        prefix: Name of the family.
        names: Gives the names of the models that are there, without loading one.
        load: Gives the model class of a name, or raises ValueError with the reason.
    """
    _FAMILIES[prefix] = _Family(names, load)


def available_models() -> list[str]:
    """Names of all registered models and of all families' models, sorted."""
    _import_all("model")
    of_families = (f"{prefix}/{n}" for prefix, family in _FAMILIES.items() for n in family.names())
    return sorted([*_MODELS, *of_families])


def get_model(name: str) -> type:
    """The model class registered under ``name``.

    Raises:
        ValueError: If there is none; the message names the known ones.
    """
    known = available_models()
    prefix, _, member = name.partition("/")
    family = _FAMILIES.get(prefix)
    if family is not None and (name in known or not family.names()):
        return family.load(member)
    if name not in known:
        nearest = " or ".join(f"'{near}'" for near in get_close_matches(name, known, n=2))
        hint = f" (did you mean {nearest}?)" if nearest else ""
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
