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

_MODELS: dict[str, type] = {}
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


class _Family(NamedTuple):
    names: Callable[[], list[str]]
    load: Callable[[str], type]


_FAMILIES: dict[str, _Family] = {}


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
    # By looking at files: FuxiCTR installs folders of its own under this name, which register
    # nothing, and some of which fail when they are imported.
    for folder in map(Path, __path__):
        for file in sorted(folder.glob("*/model.py")):
            importlib.import_module(f"{__name__}.{file.parent.name}.model")
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
        nearest = get_close_matches(name, known, n=1)
        hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
        raise ValueError(f"model '{name}' is not registered{hint}; known: {', '.join(known)}")
    return _MODELS[name]
