"""Packages import downwards, Dagster is imported in its own layers only, one file knows the classes."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from captcha_assets.dataset import CAPTCHA
from captcha_assets_tests.architecture.source import (
    LAYERS,
    PACKAGE,
    Module,
    at_import_time,
    imports,
    modules,
    place,
)

LAYER = {package: number for number, packages in enumerate(LAYERS) for package in packages}
KNOWS_THE_CLASSES = {"dataset.py", "sources/synthetic_batches.py", "sources/kaptcha_renderer.py"}


def test_every_module_belongs_to_a_layer() -> None:
    without_layer = [module.inside for module in modules() if module.package and module.package not in LAYER]
    assert without_layer == [], f"no layer has them: {LAYERS}"


def test_packages_import_downwards_only() -> None:
    upwards = []
    for module in modules():
        for node, name in imports(module):
            package = name.removeprefix(f"{PACKAGE}.").split(".")[0]
            if not name.startswith(f"{PACKAGE}.") or package == module.package or package not in LAYER:
                continue
            if not module.package or LAYER.get(module.package, 0) >= LAYER[package]:
                upwards.append(f"{place(module, node)} imports {name}")
    assert upwards == []


def _depends_on() -> dict[str, set[str]]:
    names = {module.name for module in modules()}
    graph: dict[str, set[str]] = {}
    for module in modules():
        found = {name if name in names else name.rpartition(".")[0] for _, name in imports(module)}
        graph[module.name] = (found & names) - {module.name}
    return graph


def test_no_module_imports_itself_in_a_circle() -> None:
    circle: list[str] = []
    try:
        TopologicalSorter(_depends_on()).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert circle == []


def _of_dagster(name: str) -> bool:
    return re.match(r"dagster(_\w+)?(\.|$)", name) is not None


def test_dagster_is_imported_in_defs_definitions_and_the_command_line_only() -> None:
    elsewhere = [
        f"{place(module, node)} imports {name}"
        for module in modules()
        for node, name in imports(module)
        if _of_dagster(name)
        and module.package not in {"defs", "definitions", "component", "cli"}
        and not (module.inside == "training/__main__.py" and name.startswith("dagster_pipes"))
    ]
    assert elsewhere == []


def test_private_modules_of_dagster_are_imported_in_one_place() -> None:
    others = [
        f"{place(module, node)} imports {name}"
        for module in modules()
        for node, name in imports(module)
        if re.match(r"dagster\._|dagster_shared", name) and module.inside != "defs/dagster_internals.py"
    ]
    assert others == []


def test_dagster_has_one_import_dialect() -> None:
    others = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module == "dagster":
                others.append(f"{place(module, node)}: {ast.unparse(node)}")
            if isinstance(node, ast.Import):
                wrong = [alias for alias in node.names if alias.name == "dagster" and alias.asname != "dg"]
                others += [f"{place(module, node)}: {ast.unparse(node)}"] if wrong else []
    assert others == [], "write: import dagster as dg"


def test_no_file_postpones_its_annotations() -> None:
    postponed = [
        place(module, node)
        for module in modules()
        for node, name in imports(module)
        if name == "__future__.annotations"
    ]
    assert postponed == [], "Dagster reads annotations when it defines assets"


# --- one file knows the classes


def _docstrings(module: Module) -> set[int]:
    found = set()
    for node in ast.walk(module.tree):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else []:
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
                found.add(id(one.value))
    return found


def _knows_classes(module: Module) -> Iterator[str]:
    """Yield what a module says about CAPTCHA characters: the alphabet, their size, where they come from."""
    alphabet, prose = "".join(CAPTCHA.classes), _docstrings(module)
    pieces = {alphabet[start : start + 4] for start in range(len(alphabet) - 3)} - {"abcd", "bcde", "cdef"}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and id(node) not in prose:
            if isinstance(node.value, str):
                said = [piece for piece in pieces if piece in node.value]
                said += re.findall(r"(?i)kaptcha|captcha[ -]?(?:character|image)s?", node.value)
                yield from (f"{place(module, node)}: {one!r}" for one in said[:1])
            elif type(node.value) is int and node.value in {CAPTCHA.height, CAPTCHA.pixel_bytes}:
                yield f"{place(module, node)}: {node.value}"
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            values = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            if len(set(values) & set(CAPTCHA.classes)) >= 4:
                yield f"{place(module, node)}: {ast.unparse(node)}"


def test_only_the_data_set_and_its_generator_know_the_characters() -> None:
    known = [
        one
        for module in modules()
        if module.inside not in KNOWS_THE_CLASSES
        for one in _knows_classes(module)
    ]
    assert known == [], "take it from captcha_assets.dataset"


#: What chooses the data set; the generator draws CAPTCHA characters and nothing else.
CHOOSES_THE_DATA_SET = {
    "definitions",
    "component",
    "cli",
    "sources/synthetic_batches.py",
    "sources/kaptcha_renderer.py",
}


def test_the_library_is_given_its_data_set() -> None:
    chosen = [
        f"{place(module, node)} imports {name}"
        for module in modules()
        for node, name in imports(module)
        if name in {f"{PACKAGE}.dataset.CAPTCHA", f"{PACKAGE}.dataset.load_dataset"}
        and not {module.package, module.inside} & CHOOSES_THE_DATA_SET
    ]
    assert chosen == [], "take a DatasetSpec as an argument"


def test_the_data_set_does_know_the_characters() -> None:
    (dataset,) = [module for module in modules() if module.inside == "dataset.py"]
    assert len(list(_knows_classes(dataset))) >= 2


# --- what happens at import, and what is caught


def _of_the_environment(node: ast.AST) -> bool:
    """Say whether a node looks at the environment, or loads the settings, which do."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).split(".")[-1] in {"getenv", "load_settings", "Settings", "load_dotenv"}
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] == "environ"


def test_nothing_looks_at_the_environment_at_import_time() -> None:
    looks = [
        f"{place(module, node)}: {ast.unparse(node)}"
        for module in modules()
        for node in at_import_time(module)
        if _of_the_environment(node)
    ]
    assert looks == []


def _names(node: ast.expr | None) -> set[str]:
    parts = node.elts if isinstance(node, ast.Tuple) else [node] if node else []
    return {ast.unparse(part).split(".")[-1] for part in parts} or {"everything"}


def test_no_exception_is_caught_broadly() -> None:
    broad = {"everything", "Exception", "BaseException"}
    caught = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and _names(node.type) & broad:
                caught.append(place(module, node))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                caught += [place(module, node)] if {ast.unparse(one) for one in node.args} & broad else []
    assert caught == []
