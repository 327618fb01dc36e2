"""Import paths of before the rooms were divided; each still works and names the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import CodeType, ModuleType
from typing import Any

_CORE = "model_zoo.core."
_OF_DATA = ["spec", "schema", "rules", "item_table", "block", "loader", "encode", "vocabulary"]
_OF_DATA += ["csv_rows"]
_COMMANDS = ["experiment", "tuning", "submission", "deployment", "scoring", "folding"]
_COMMANDS += ["reliability", "curve", "config", "cli"]
_MOVED = {name: f"commands.{name}" for name in _COMMANDS}
_MOVED |= {"errors": "errors", "files": "files", "metrics": "training.metrics"}
_MOVED |= {"data.__main__": "commands.prepare", "serving.__main__": "commands.serving"}
_MOVED |= {"data.commands": "commands.prepare"}


def new_name(old: str) -> str | None:
    """Where a module of ``model_zoo.QIN`` stands now; ``None`` if it did not move."""
    name = old.removeprefix("model_zoo.QIN.")
    room, _, module = name.partition(".")
    if name == old:
        return None
    if name in _MOVED:
        return _CORE + _MOVED[name]
    if name in ("serving.fold", "serving.folded"):
        return f"model_zoo.QIN.{module}"
    if room == "data" and module and module not in _OF_DATA:
        return f"{_CORE}prepare.{module}"
    return _CORE + name if room in ("data", "serving", "training") else None


class _Finder(MetaPathFinder, Loader):
    """Gives the module at its new place for its old name."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        new = new_name(fullname)
        if new is None or find_spec(new) is None:
            return None
        warnings.warn(f"{fullname} is now {new}", FutureWarning, stacklevel=2)
        is_package = fullname.count(".") == 2 and new.rsplit(".", 1)[1] in fullname
        return spec_from_loader(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(str(new_name(spec.name)))
        self._specs[spec.name] = module.__spec__  # which the import system replaces
        return module

    def exec_module(self, module: ModuleType) -> None:
        name = str(module.__spec__ and module.__spec__.name)
        module.__spec__ = self._specs.pop(name)

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m``."""
        spec = find_spec(str(new_name(fullname)))
        loader: Any = spec and spec.loader
        code: CodeType | None = loader.get_code(spec and spec.name)
        return code


def install() -> None:
    """Let the old names be found, before the folders are searched."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
