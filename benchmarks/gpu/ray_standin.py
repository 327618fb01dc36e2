"""Names of Ray that FuxiCTR imports, for a machine without it: nothing here calls Ray."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

NAMES: dict[str, tuple[str, ...]] = {
    "ray": (),
    "ray.data": ("SaveMode", "TaskPoolStrategy"),
    "ray.data.datasource": (),
    "ray.data.datasource.filename_provider": ("FilenameProvider",),
}


class Missing:
    """What stands for every class of Ray; to use it is an error."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ModuleNotFoundError("Ray is not installed")


def stand_in_for_ray() -> bool:
    """Make FuxiCTR importable where Ray is missing; whether it was."""
    if importlib.util.find_spec("ray") is not None:
        return False
    for path, names in NAMES.items():
        module = ModuleType(path)
        module.__path__ = []  # a package, so that those below are looked for
        for name in names:
            setattr(module, name, Missing)
        sys.modules[path] = module
        parent, _, child = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return True
