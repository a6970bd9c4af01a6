"""The package's source as the rules of the architecture look at it: modules, what they import, functions."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "captcha_assets"

#: From the top down: a package imports what stands in the layers below it, and itself.
LAYERS = [
    ["cli", "__main__", "component"],
    ["definitions"],
    ["defs"],
    ["stored_outputs", "observed_files", "backup", "dataset_record"],
    ["sweeps", "reproduction", "training_jobs", "served_predictions"],
    ["training", "evaluation", "serving", "monitoring", "reports", "alerts"],
    ["start_page"],
    ["models"],
    ["quality", "sources"],
    ["images"],
    ["dataset"],
    ["settings"],
    ["locks"],
    ["settings_validation", "paths"],
    [
        "atomic_files",
        "confidence_intervals",
        "html_templates",
        "interrupts",
        "project",
        "text_formats",
        "validation_errors",
    ],
]

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    path: Path

    @property
    def parts(self) -> tuple[str, ...]:
        return self.path.relative_to(REPOSITORY).with_suffix("").parts

    @property
    def name(self) -> str:
        return ".".join(part for part in self.parts if part != "__init__")

    @property
    def package(self) -> str:
        """The package a module stands in; empty for the package's own `__init__`."""
        return "" if self.name == PACKAGE else self.parts[1]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), filename=str(self.path))

    @property
    def inside(self) -> str:
        """The path inside the package."""
        return "/".join(self.path.relative_to(REPOSITORY / PACKAGE).parts)


@cache
def modules() -> list[Module]:
    """Every source file of the package."""
    return [Module(path) for path in sorted((REPOSITORY / PACKAGE).rglob("*.py"))]


def place(module: Module, node: ast.AST) -> str:
    """Return where to look, for a message."""
    return f"{module.inside}:{getattr(node, 'lineno', 1)}"


def imports(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield all that a module imports, wherever in the file: the statement and the full name.

    `from a import b` counts as `a.b`; whether that is a module, the caller has to know.
    """
    package = module.parts if module.parts[-1] == "__init__" else module.parts[:-1]
    package = tuple(part for part in package if part != "__init__")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node, f"{origin}.{alias.name}") for alias in node.names)


def functions() -> Iterator[tuple[Module, Function]]:
    """Yield every function and method of the package, nested ones too."""
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, Function):
                yield module, node


def at_import_time(module: Module) -> Iterator[ast.AST]:
    """Yield every node that runs when a module is imported: all but the bodies of functions."""
    waiting: list[ast.AST] = [module.tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Function):
            waiting += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif not isinstance(node, ast.Lambda) and not _only_when_run(node):
            waiting += ast.iter_child_nodes(node)


def _only_when_run(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
