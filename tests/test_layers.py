"""Imports point one way: the core's layers, no cycle of any sort, and what a handler package may know of the core."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core" / "src" / "postroom"

# The way of a mail, outermost last; a module imports from its own layer and those before it. Within layer 4 the order
# is as written: the command line is the only place where the parts meet.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"mail", "verdict", "registration", "config", "log", "logline"}),
    frozenset({"hookspecs", "registry", "authentication_results", "stores"}),
    frozenset(
        "services lists backends plugins executable plan pipeline breaker call_threads edit_rules failure".split()  # noqa: SIM905
    ),
    frozenset({"fronts", "delivery", "quarantine"}),
    frozenset({"server", "diagnosis"}),
    frozenset({"mta"}),
    frozenset({"testing"}),
    frozenset({"cli"}),
)

# The contract: all that handlers know of the core.
EXPORTED = frozenset(
    "mail verdict registration config hookspecs lists backends authentication_results stores testing".split()  # noqa: SIM905
)


def module_name(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(source: Path) -> dict[str, Path]:
    """Every module below a `src` directory, by name."""
    return {module_name(path, source): path for path in sorted(source.rglob("*.py"))}


def imported_names(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import, wherever it stands: lazy and typing-only ones count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*anchor, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, base, alias.name


def imports_of(path: Path, module: str, known: Mapping[str, Path]) -> dict[str, int]:
    """What a module imports, with the line; `from package import submodule` counts for the submodule."""
    found: dict[str, int] = {}
    for line, base, name in imported_names(ast.parse(path.read_bytes()), module, path.name == "__init__.py"):
        target = f"{base}.{name}" if f"{base}.{name}" in known else base
        found.setdefault(target, line)
    return found


def layer_of(module: str) -> int | None:
    """The layer of a core module; None for the package itself, which is empty."""
    _, _, rest = module.partition(".")
    if not rest:
        return None
    part = rest.split(".")[0]
    for number, layer in enumerate(LAYERS):
        if part in layer:
            return number
    raise AssertionError(f"{module} is in no layer: put it into LAYERS in {Path(__file__).name}")


def find_cycle(graph: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The modules of one import cycle, the first again at the end; empty when there is none."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for target in graph[module]:
            if target in graph and target != module and (cycle := walk(target, [*way, module])):
                return cycle
        done.add(module)
        return []

    for module in graph:
        if cycle := walk(module, []):
            return cycle
    return []


def graph_of(source: Path) -> dict[str, dict[str, int]]:
    known = modules_of(source)
    return {module: imports_of(path, module, known) for module, path in known.items()}


def handler_sources() -> list[Path]:
    """The `src` directory of every handler distribution here, and of the examples."""
    return sorted(
        path.parent / "src" for pattern in ("plugins/*", "examples/*") for path in ROOT.glob(f"{pattern}/src")
    )


def test_every_module_of_the_core_has_a_layer() -> None:
    modules = modules_of(CORE.parent)
    assert len(modules) > 10
    for module in modules:
        layer_of(module)


def test_the_core_imports_only_from_layers_before() -> None:
    faults = []
    for module, imports in graph_of(CORE.parent).items():
        own = layer_of(module)
        for target, line in imports.items():
            if target.split(".")[0] != "postroom" or own is None:
                continue
            other = layer_of(target)
            if other is not None and other > own:
                faults.append(f"{module}:{line} imports {target}, which comes later")
    assert not faults, "\n".join(faults)


def test_the_package_itself_imports_nothing() -> None:
    assert not [name for name in graph_of(CORE.parent)["postroom"] if name.startswith("postroom")]


def test_the_core_has_no_import_cycle() -> None:
    assert not find_cycle(graph_of(CORE.parent))


def test_the_core_knows_no_handler_package() -> None:
    faults = [
        f"{module}:{line} imports {target}"
        for module, imports in graph_of(CORE.parent).items()
        for target, line in imports.items()
        if target.startswith("postroom_")
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("source", handler_sources(), ids=lambda path: path.parent.name)
def test_a_handler_package_knows_the_contract_and_nothing_else(source: Path) -> None:
    graph = graph_of(source)
    assert graph, f"no module in {source}"
    own = {module.split(".")[0] for module in graph}
    faults = []
    for module, imports in graph.items():
        for target, line in imports.items():
            top, _, rest = target.partition(".")
            if top == "postroom" and rest.split(".")[0] not in EXPORTED:
                faults.append(f"{module}:{line} imports {target}: handlers may use {', '.join(sorted(EXPORTED))}")
            elif top.startswith("postroom_") and top not in own:
                faults.append(f"{module}:{line} imports {target}, another handler's package")
    assert not faults, "\n".join(faults)
    assert not find_cycle(graph)


def test_the_test_sees_what_it_looks_for(tmp_path: Path) -> None:
    package = tmp_path / "sample"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sample import b\n")
    (package / "b.py").write_text("def f():\n    from . import a\n    return a\n")
    graph = graph_of(tmp_path)
    assert graph["sample.a"]["sample.b"] == 3
    assert graph["sample.b"]["sample.a"] == 2
    assert find_cycle(graph) == ["sample.a", "sample.b", "sample.a"]
    with pytest.raises(AssertionError, match="is in no layer"):
        layer_of("postroom.nowhere")
