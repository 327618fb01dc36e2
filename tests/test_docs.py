"""What the pages say is so: links lead somewhere, commands, settings and code are real."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import model_zoo
from model_zoo import get_model
from model_zoo.core.commands.config import (
    RunSpec,
    check_experiment,
    constructor_arguments,
    load_experiment,
)
from model_zoo.core.commands.experiment import run_experiment
from model_zoo.core.commands.tuning.tuner_file import TUNER_KEYS
from model_zoo.core.data.spec import DatasetSpec
from tests.conftest import ROOT

CONFIG = ROOT / "config"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "model_zoo").glob("*/README.md"))]
DATASETS = yaml.safe_load((CONFIG / "dataset_config.yaml").read_text(encoding="utf-8"))
SCRIPTS = ("run_expid.py", "run_param_tuner.py", "prediction.py")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def inline_code(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(text: str) -> dict[str, str]:
    """First column -> second, of the first table; the first column is code."""
    rows = [re.split(r" *\| *", line) for line in re.findall(r"^\| `.*$", text, re.M)]
    return {row[1].strip("`"): row[2].strip("`") for row in rows}


def sections(page: Path) -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", page.read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_readme_is_an_entrance() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", prose(page))
    for link in (link for link in links if not link.startswith("https://")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", prose(ROOT / "README.md")))
    pages = {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"}
    models = {str(page.relative_to(ROOT)) for page in (ROOT / "model_zoo").glob("*/README.md")}
    assert pages - models - linked == set()
    listed = prose(ROOT / "docs" / "models.md")
    assert [page for page in models if f"(../{page})" not in listed] == []


@each_page
def test_files_and_names_exist(page: Path) -> None:
    for code in inline_code(page):
        if re.fullmatch(r"[\w.]+(/[\w.]+)+\.(py|md|yaml|svg)", code):
            assert any((folder / code).is_file() for folder in (ROOT, ROOT / "model_zoo")), code
        elif re.fullmatch(r"model_zoo(\.\w+)+", code):
            assert resolves(code), code


def resolves(dotted: str) -> bool:
    """Whether a name is a module, or something in one."""
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return bool(module) and hasattr(importlib.import_module(module), name)
    return True


# --- commands ---------------------------------------------------------------------------------


class Parsed(Exception):
    """Ends a command where its arguments are parsed."""

    def __init__(self, parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
        self.parser, self.arguments = parser, arguments


class Refused(Exception):
    """What the parser says against the arguments."""


@pytest.fixture
def parsing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, args: object = None) -> None:
        raise Parsed(self, parse(self, args))  # type: ignore[call-overload]

    def error(self: argparse.ArgumentParser, message: str) -> None:
        raise Refused(f"{message}\n{self.format_usage()}")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(argparse.ArgumentParser, "error", error)


def commands(text: str) -> Iterator[list[str]]:
    """Commands of this project among shell lines, as ``[module, argument, ...]``."""
    for line in re.split(r"\n|&&", text.replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        if words[:1] == ["torchrun"]:
            words = ["python", *words[next(i for i, w in enumerate(words) if w in SCRIPTS) :]]
        if words[:1] == ["qin-data"]:
            yield ["model_zoo.core.commands.prepare", *words[1:]]
        elif words[:1] == ["qin-serve"]:
            yield ["model_zoo.core.commands.service", *words[1:]]
        elif words[:2] == ["python", "-m"]:
            yield words[2:]
        elif words[:1] == ["python"]:
            assert (ROOT / words[1]).is_file(), words[1]
            yield [words[1].removesuffix(".py"), *words[2:]]


def parsed(command: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    module = importlib.import_module(command[0])
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(Parsed) as stop:
        module.main()
    return stop.value.arguments


def check(arguments: argparse.Namespace) -> None:
    """The experiment and its settings, or the data set, are there."""
    settings = [s for s in getattr(arguments, "overrides", []) if not s.endswith("...")]
    if getattr(arguments, "expid", "...") != "...":
        load_experiment(CONFIG, arguments.expid, settings)
    if getattr(arguments, "prediction", None):
        load_experiment(CONFIG, arguments.prediction)
    for name in ("dataset", "dataset_id"):
        assert getattr(arguments, name, "MicroLens_demo") in DATASETS
    if str(getattr(arguments, "config", "")).endswith(".yaml"):
        assert (ROOT / arguments.config).is_file()


@each_page
@pytest.mark.usefixtures("parsing_only")
def test_shown_commands_are_real(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in [c for block in blocks(page, "bash") for c in commands(block)]:
        check(parsed(command, monkeypatch))


@each_page
@pytest.mark.usefixtures("parsing_only")
def test_mentioned_commands_are_real(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command within a sentence may leave out what is required, unless it names options."""
    starts = ("python ", "torchrun ", "qin-data ", "qin-serve ")
    mentioned = [code for code in inline_code(page) if code.startswith(starts)]
    for command in [c for code in mentioned for c in commands(code)]:
        try:
            check(parsed(command, monkeypatch))
        except Refused as refusal:
            named = [word for word in command if word.startswith("--")]
            assert "arguments are required" in str(refusal) and not named, (command, refusal)


@each_page
@pytest.mark.usefixtures("parsing_only")
def test_mentioned_options_are_real(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run_expid.py --resume`` in a sentence."""
    for code in inline_code(page):
        script, *words = code.split()
        if script in SCRIPTS:
            with pytest.raises((Refused, Parsed)) as stop:
                parsed([script.removesuffix(".py"), "--none"], monkeypatch)
            known = set(re.findall(r"--[\w-]+", str(stop.value)))
            assert {word for word in words if word.startswith("--")} <= known, code


# --- settings ---------------------------------------------------------------------------------


def test_the_parameter_tables_are_complete_and_true() -> None:
    tables = {name: table(text) for name, text in sections(ROOT / "docs/parameters.md").items()}
    shared = tables.pop("Every model")
    assert "QIN" in tables
    for model, own in tables.items():
        constructor = constructor_arguments(get_model(model))
        defaults = {name: field.default for name, field in RunSpec.model_fields.items()}
        defaults |= {name: default for name, (_, default) in constructor.items()}
        del defaults["model_id"]  # the experiment's name
        assert {**shared, **own}.keys() == defaults.keys()
        for name, text in {**shared, **own}.items():
            shown = yaml.safe_load(text) if text else ...
            default = defaults[name]
            if isinstance(default, (float, tuple)):
                shown = type(default)(shown)
            required = text == "" and (default is ... or repr(default) == "PydanticUndefined")
            assert required or shown == default, f"{model}: {name}: {text!r}, not {default!r}"


@each_page
def test_shown_yaml_is_sound(page: Path) -> None:
    """A page's experiments and searches may be of what it shows before."""
    datasets, experiments = dict(DATASETS), set()
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(block)
        if "tuner_space" in content:
            assert content.keys() <= TUNER_KEYS
            if content["base_expid"] not in experiments:
                load_experiment(CONFIG, content["base_expid"])
            continue
        for name, section in content.items():
            if "feature_cols" in section:
                DatasetSpec(dataset_id=name, **section)
                datasets[name] = section
            else:
                of_data = {"dataset_id": section["dataset_id"], **datasets[section["dataset_id"]]}
                if section["model"] in model_zoo.available_models():
                    check_experiment({"model_id": name, **section}, of_data)
                experiments.add(name)


# --- code -------------------------------------------------------------------------------------


@each_page
def test_shown_code_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("model_zoo"):
                module = importlib.import_module(str(node.module))
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_the_layers_example_runs() -> None:
    for page in (ROOT / "docs" / "python.md", ROOT / "model_zoo" / "QIN" / "README.md"):
        (block,) = (b for b in blocks(page, "python") if "QIN.layers" in b)
        made: dict[str, object] = {}
        exec(block, made)
        assert made["logit"].shape == (32, 1)  # type: ignore[attr-defined]


def test_the_own_model_of_the_page_trains(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_zoo, "_MODELS", dict(model_zoo._MODELS))
    page = ROOT / "docs" / "models.md"
    (code,), (settings,) = blocks(page, "python"), blocks(page, "yaml")
    exec(code, {"__name__": "page"})
    with open(workspace / "config" / "model_config.yaml", "a", encoding="utf-8") as file:
        file.write(f"\n{settings}")
    faster = ["batch_size=64", "learning_rate=0.01", "epochs=5"]  # 600 rows
    assert run_experiment("config", "MeanPooling_test", overrides=faster)["valid"]["AUC"] > 0.6
