"""Reading YAML: nothing is written twice, and a name is the text that stands in the file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model_zoo.core.errors import InputError, suggestion

SUFFIXES = (".yaml", ".yml")
# Values that name a section: 007 and 2024 are names there, no numbers.
NAME_KEYS = ("dataset_id", "base_expid")

_TEXT = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
# Keys that YAML gives a meaning of their own: "<<" and "=".
_SPECIAL = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


@dataclass(frozen=True)
class Section:
    """An entry of the top level of a file, and where it stands."""

    values: dict[str, Any]
    file: Path
    line: int


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file in UTF-8 whose top level is a mapping; its keys are text, as written.

    Anchors and merge keys (``<<``) are allowed; a key beside ``<<`` replaces a merged one.

    Raises:
        InputError: If it is missing, is no YAML (with line and column), is no mapping, or
            writes a key twice (with both lines).
    """
    return _read(Path(path))[0]


def read_experiment(config_dir: str | Path, expid: str) -> dict[str, Any]:
    """Settings of an experiment: those of ``Base``, replaced by its own, and ``model_id``.

    ``Base`` is the one in the experiment's own file, otherwise the folder's only one.

    Raises:
        InputError: If the files are wrong, do not have it, or have it twice.
    """
    sections, bases = _sections(config_dir, "model_config")
    own = _find(expid, sections, "experiment", config_dir)
    near = [base for base in bases if base.file == own.file] or bases
    if len(near) > 1:
        raise InputError(
            f"experiment '{expid}' in {own.file}: Base is defined twice: {_places(near)}"
        )
    return {**(near[0].values if near else {}), **own.values, "model_id": str(expid)}


def read_dataset(config_dir: str | Path, dataset_id: str) -> dict[str, Any]:
    """Settings of a data set, and ``dataset_id``.

    Raises:
        InputError: If the files are wrong, do not have it, or have it twice.
    """
    sections, _ = _sections(config_dir, "dataset_config")
    own = _find(dataset_id, sections, "data set", config_dir)
    return {**own.values, "dataset_id": str(dataset_id)}


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``["epochs=3", "batch_norm=False"]`` -> ``{"epochs": 3, "batch_norm": False}``.

    Raises:
        InputError: If one is not ``key=YAML``. Of a key given twice, the last counts.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise InputError(f"--set {override}: expected key=value")
        try:
            loader = _Loader(value)
            changes[key] = loader.get_single_data()
        except (yaml.YAMLError, RecursionError):
            raise InputError(f"--set {override}: the value is not YAML") from None
        if loader.twice:
            raise InputError(f"--set {override}: {loader.twice[0][0]!r} is written twice")
        if key in NAME_KEYS and isinstance(changes[key], Hashable) and changes[key] is not None:
            changes[key] = changes[key] if isinstance(changes[key], str) else value.strip()
    return changes


class _Loader(yaml.SafeLoader):
    """``yaml.SafeLoader`` that collects keys written twice; the safe loader keeps the last.

    Attributes:
        twice: Key, line of its first place and line of the other one.
    """

    def __init__(self, text: str, name: str = "<text>") -> None:
        super().__init__(text)
        self.name = name
        self.twice: list[tuple[str, int, int]] = []

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, not where the mapping is constructed: merged keys are not yet among its own,
        # and a mapping that several aliases name comes by once.
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for index, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                continue  # the constructor refuses it
            name = key.value if key.tag in _SPECIAL else self.construct_object(key)
            if not isinstance(name, Hashable):
                continue  # likewise
            line = key.start_mark.line + 1
            # Also 101 beside "101": the keys that matter here are names.
            first = lines.get(name, lines.get(key.value))
            if first is not None:
                self.twice.append((key.value, first, line))
            lines.setdefault(name, line)
            lines.setdefault(key.value, line)
            if name in NAME_KEYS:
                node.value[index] = (key, _as_text(value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            # What PyYAML lets through for 2024-13-45 or !!int x.
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} is no {node.tag.rpartition(':')[2]}", node.start_mark
            ) from None


def _as_text(node: yaml.Node) -> yaml.Node:
    """The text of a number, date or Boolean as it is written; any other node as it is."""
    if not isinstance(node, yaml.ScalarNode) or node.tag in (_NULL, *_SPECIAL):
        return node
    # A copy: the node may have an anchor and be a number elsewhere.
    return yaml.ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark, node.style)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Content of a file, and the line of each key of its top level."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error}") from None
    content: Any = None
    lines: dict[str, int] = {}
    try:
        loader = _Loader(text, path.name)
        root = loader.get_single_node()
        if loader.twice:
            raise InputError([_written_twice(path, *place) for place in loader.twice])
        if isinstance(root, yaml.MappingNode):
            root.value = [(_as_text(key), value) for key, value in root.value]
            content = loader.construct_document(root)
            # By now the root also has the keys that it merges.
            lines = {str(key.value): key.start_mark.line + 1 for key, _ in root.value}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not valid YAML: nested too deeply") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping at the top level")
    return {str(key): value for key, value in content.items()}, lines


def _written_twice(path: Path, key: str, first: int, second: int) -> str:
    hint = "; write one <<: [*first, *second]" if key == "<<" else ""
    return f"{path}: '{key}' is written twice, in line {first} and in line {second}{hint}"


def _sections(config_dir: str | Path, kind: str) -> tuple[dict[str, Section], list[Section]]:
    """Entries of all YAML files of a kind, which must be mappings; those named ``Base`` apart."""
    # Listed, not globbed: a folder's name may have brackets.
    folder = Path(config_dir)
    files = [path for suffix in SUFFIXES if (path := folder / f"{kind}{suffix}").is_file()]
    if (folder / kind).is_dir():
        files += sorted(
            path
            for path in (folder / kind).iterdir()
            if path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
    if not files:
        raise InputError(f"{config_dir}: no {kind}.yaml and no folder {kind}/ of YAML files")
    sections: dict[str, Section] = {}
    bases: list[Section] = []
    problems: list[str] = []
    for file in files:
        content, lines = _read(file)
        for name, values in content.items():
            if not isinstance(values, dict):
                raise InputError(f"{file}: {name}: expected a mapping, found {values!r}")
            section = Section(values, file, lines[name])
            if name == "Base":
                bases.append(section)
            elif name in sections:
                problems.append(f"{name} is defined twice: {_places([sections[name], section])}")
            else:
                sections[name] = section
    if problems:
        raise InputError(problems)
    return sections, bases


def _places(sections: Sequence[Section]) -> str:
    return " and ".join(f"{section.file} line {section.line}" for section in sections)


def _find(name: str, sections: Mapping[str, Section], what: str, config_dir: str | Path) -> Section:
    if str(name) not in sections:
        raise InputError(
            f"{what} '{name}' is not in {config_dir}{suggestion(str(name), [*sections])}; "
            f"known: {', '.join(sorted(sections))}"
        )
    return sections[str(name)]
