"""FuxiCTR's LongCTR models where they are installed: found by name, imported when asked for.

Its wheel puts them into ``model_zoo/LongCTR/<Name>/<Name>.py``, beside this package or hidden
by a checkout of it, so they are taken from the distribution's own list of files.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DISTRIBUTION = "fuxictr"
FOLDER = ("model_zoo", "LongCTR")


def installed_models() -> dict[str, Path]:
    """Name -> source file of every LongCTR model that is installed; empty without FuxiCTR's wheel.

    Nothing is imported.
    """
    try:
        files = distribution(DISTRIBUTION).files or []
    except PackageNotFoundError:
        return {}
    found = {}
    for file in files:
        *folder, name, module = file.parts if len(file.parts) > 1 else ("", "")
        if tuple(folder) == FOLDER and module == f"{name}.py":
            path = Path(str(file.locate()))
            if path.is_file():
                found[name] = path
    return found


def load_class(name: str) -> type:
    """FuxiCTR's class of that name, from its file.

    Raises:
        ValueError: If it is not installed.
    """
    installed = installed_models()
    if name not in installed:
        raise ValueError(
            f"model 'LongCTR/{name}' needs {'/'.join(FOLDER)}/{name}/{name}.py of FuxiCTR's wheel, "
            f"which the installed '{DISTRIBUTION}' does not have: pip install --force-reinstall "
            f"'{DISTRIBUTION}>=2.3.10'"
        )
    # A name of its own: as model_zoo.LongCTR.DIN it would belong to this package.
    module_name = f"fuxictr_longctr_{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, installed[name])
        assert spec is not None and spec.loader is not None  # the file ends with .py
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[module_name] = module
    loaded: type = getattr(sys.modules[module_name], name)
    return loaded
