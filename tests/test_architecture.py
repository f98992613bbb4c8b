"""The layers of the design: who may import whom, what is frozen, documented, listed and shipped."""

from __future__ import annotations

import ast
import fnmatch
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"weights", "verify", "wheels", "fetch", "allocator", "entries"},
    {"core"},
    {"files"},
    {"space"},
    {"methods"},
    {"registry", "kinship", "build", "load", "result", "api"},
    {"campaign"},
    {"cli", "__init__", "__main__"},
]
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
PLUGINS_SEE = LAYER["space"]
TOP = {
    "pyproject.toml", "README.md", "CONTRIBUTING.md", "LICENSE", "CHANGELOG.md", "Makefile",
    "constraints.txt", ".ci", ".gitignore", "seqalign", "rewards", "models", "tests", "examples",
}  # fmt: skip
PLUGIN_LIBRARIES = {
    "torch",
    "numpy",
    "scipy",
    "Bio",
    "esm",
    "safetensors",
    "yaml",
    "rich",
    "transformers",
    "biotite",
    "PIL",
    "diffusers",
    "huggingface_hub",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> dict[str, Path]:
    """Map every importable module of the three packages to its file."""
    found = {}
    for package, folder in (
        ("seqalign", "seqalign"),
        ("seqalign.rewards", "rewards"),
        ("seqalign.models", "models"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts))
            found[name.removesuffix(".__init__")] = path
    return found


SOURCES = sources()
ENGINE = {n: p for n, p in SOURCES.items() if p.is_relative_to(ROOT / "seqalign")}
PLUGINS = {n: p for n, p in SOURCES.items() if n not in ENGINE}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(name: str) -> Iterator[str]:
    """Yield every module a module imports, at any depth, as far as names tell."""
    for node in ast.walk(tree(SOURCES[name])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in SOURCES else base


def layer(module: str) -> int:
    parts = module.split(".")
    return LAYER.get("__init__" if len(parts) == 1 else parts[1], len(LAYERS))


def inside(name: str) -> list[str]:
    return [m for m in imports(name) if m == "seqalign" or m.startswith("seqalign.")]


def public(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Yield public classes and functions, methods of public classes included."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                if node.name.startswith("_"):
                    continue
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    return walk(tree(path).body, "")


def test_every_module_of_the_engine_has_a_layer():
    for name in ENGINE:
        assert [*name.split("."), "__init__"][1] in LAYER, f"{name} is in no layer of the design"
    assert not [n for n in SOURCES if n.split(".")[-1] in ("utils", "helpers", "common", "misc")]


@pytest.mark.parametrize("name", sorted(ENGINE))
def test_the_engine_imports_lower_layers_or_its_own(name):
    for module in inside(name):
        if module == "seqalign":
            # only the tool may need the package itself, for its version
            assert layer(name) >= LAYER["campaign"], f"{name} imports {module}"
            continue
        assert not module.startswith(("seqalign.rewards", "seqalign.models")), (
            f"{name} imports {module}: the engine finds plugins through entry points"
        )
        assert layer(module) <= layer(name), f"{name} imports {module}, which lies above it"
        if name.startswith("seqalign.methods."):
            assert not module.startswith("seqalign.methods"), f"{name} imports another method"


def test_there_are_no_cycles():
    graph = {n: {m for m in inside(n) if m in SOURCES and m != n} - {"seqalign"} for n in SOURCES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(SOURCES) - 1


@pytest.mark.parametrize("name", sorted(PLUGINS))
def test_plugins_import_the_lower_layers_only(name):
    own = ".".join(name.split(".")[:2])
    for module in imports(name):
        top = module.split(".")[0]
        if top != "seqalign":
            known = top in sys.stdlib_module_names or top in PLUGIN_LIBRARIES
            assert known, f"{name} imports {module}"
        elif not (module == own or module.startswith(own + ".")):
            # a reward may use a network of models, never the other way round
            shared = module.startswith("seqalign.models.") and own == "seqalign.rewards"
            assert shared or layer(module) <= PLUGINS_SEE, f"{name} imports {module}"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_everything_public_is_documented(name):
    path = SOURCES[name]
    if path.read_text().strip():
        assert ast.get_docstring(tree(path)), f"{path.name} has no docstring"
    missing = [n for n, node in public(path) if not ast.get_docstring(node)]
    assert not missing, f"{path}: no docstring for {missing}"


@pytest.mark.parametrize("name", sorted(n for n in ENGINE if layer(n) <= LAYER["methods"]))
def test_dataclasses_are_frozen(name):
    for node in ast.walk(tree(SOURCES[name])):
        if not isinstance(node, ast.ClassDef):
            continue
        for mark in node.decorator_list:
            called = isinstance(mark, ast.Call)
            target = mark.func if isinstance(mark, ast.Call) else mark
            if isinstance(target, ast.Name) and target.id == "dataclass":
                options = (
                    {k.arg: ast.literal_eval(k.value) for k in mark.keywords} if called else {}
                )
                assert options.get("frozen") is True, f"{name}.{node.name} is not frozen"


def test_the_loop_knows_protocols_only():
    """What it asks of a process, a posterior or a space is declared, and typed as such."""
    size = {}
    for name in ("smc", "look"):
        path = SOURCES[f"seqalign.core.{name}"]
        text = path.read_text()
        size[name] = len(text.splitlines())
        assert "getattr(" not in text
        assert "type: ignore" not in text
        called = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
        tested = [c.args[1] for c in called if getattr(c.func, "id", "") == "isinstance"]
        kinds = {n.id for test in tested for n in ast.walk(test) if isinstance(n, ast.Name)}
        assert kinds <= {"Particles", "Automatic", "Linearized", "PosteriorMean", "Tilted"}, kinds
    assert size["smc"] <= 260
    methods = [p for n, p in ENGINE.items() if n.startswith("seqalign.methods")]
    assert sum(len(p.read_text().splitlines()) for p in methods) <= 700


@pytest.mark.parametrize("name", sorted(n for n in ENGINE if n.startswith("seqalign.methods.")))
def test_every_method_is_short_and_names_its_source(name):
    text = SOURCES[name].read_text()
    doc = ast.get_docstring(tree(SOURCES[name])) or ""
    assert "References:" in doc
    source = doc.split("References:")[1]
    assert any(year in source for year in map(str, range(1980, 2030))) or "arXiv" in source
    assert 20 <= len(text.splitlines()) <= 100
    classes = [n for n, node in public(SOURCES[name]) if isinstance(node, ast.ClassDef)]
    assert len(classes) == 1, f"{name} defines {classes}: one method, one file"


# packaging ----------------------------------------------------------------------------------------


def test_the_package_list_is_the_tree():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {n for n, p in SOURCES.items() if p.name == "__init__.py"}
    holding = {n.rsplit(".", 1)[0] for n, p in SOURCES.items() if p.name != "__init__.py"}
    assert listed == folders
    assert holding <= listed
    assert PROJECT["tool"]["setuptools"]["include-package-data"] is False


def test_every_data_file_is_shipped():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    folders = PROJECT["tool"]["setuptools"]["package-dir"]
    for package, folder in folders.items():
        for path in (ROOT / folder).rglob("*"):
            hidden = path.suffix in (".py", ".pyc") or "__pycache__" in path.parts
            if path.is_dir() or hidden or path.name.startswith("."):
                continue
            relative = path.relative_to(ROOT / folder).as_posix()
            patterns = data.get(package, [])
            assert any(fnmatch.fnmatch(relative, p) for p in patterns), f"{path} is not shipped"
    for package in ("seqalign.rewards", "seqalign.models"):
        assert {"*.safetensors", "cards/*.yaml"} <= set(data[package])


def test_entry_points_name_what_exists():
    for group, points in PROJECT["project"]["entry-points"].items():
        for name, target in points.items():
            module, _, attribute = target.partition(":")
            assert module in SOURCES, f"{group} {name}: there is no module {module}"
            names = {
                n.name if isinstance(n, (ast.ClassDef, ast.FunctionDef)) else t.id
                for n in tree(SOURCES[module]).body
                for t in getattr(n, "targets", [getattr(n, "target", None)])
                if isinstance(n, (ast.ClassDef, ast.FunctionDef)) or isinstance(t, ast.Name)
            }
            assert attribute in names, f"{group} {name}: {module} does not define {attribute}"
    methods = PROJECT["project"]["entry-points"]["seqalign.methods"].values()
    files = {n for n in ENGINE if n.startswith("seqalign.methods.")}
    assert {m.partition(":")[0] for m in methods} == files


def test_the_top_level_is_the_design():
    ignored = [*(ROOT / ".gitignore").read_text().split(), ".git"]
    patterns = [p.strip("/") for p in ignored if not p.startswith("#")]
    entries = {
        p.name for p in ROOT.iterdir() if not any(fnmatch.fnmatch(p.name, i) for i in patterns)
    }
    assert entries - TOP == set(), "not in the design"
    assert TOP - entries == set(), "missing"
    assert (ROOT / ".ci" / "run").exists()


@pytest.mark.parametrize("folder", ["rewards", "models"])
def test_the_folders_refuse_to_be_imported_under_another_name(folder):
    def attempt(code: str) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
        return subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
        )

    wrong = attempt(f"import {folder}")
    assert wrong.returncode != 0
    assert "ImportError" in wrong.stderr
    assert f"seqalign.{folder}" in wrong.stderr
    right = attempt(f"import seqalign.{folder} as p; print(p.__name__)")
    assert right.stdout.strip() == f"seqalign.{folder}", right.stderr
