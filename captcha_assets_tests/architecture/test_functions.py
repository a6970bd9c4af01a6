"""Functions are short, typed, and say what they do."""

import ast
import statistics

from captcha_assets_tests.architecture.source import Function, Module, functions, modules, place


def _lines(function: Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def _named(module: Module, function: Function) -> str:
    return f"{place(module, function)} {function.name}"


def test_no_function_is_longer_than_60_lines() -> None:
    long = {_named(*found): _lines(found[1]) for found in functions() if _lines(found[1]) > 60}
    assert long == {}, "a function over 60 lines is two functions"


def test_nine_functions_of_ten_are_shorter_than_35_lines() -> None:
    lengths = {_named(*found): _lines(found[1]) for found in functions()}
    long = {name: length for name, length in lengths.items() if length >= 35}
    assert len(long) <= len(lengths) / 10, f"{len(long)} of {len(lengths)}: {long}"


def test_half_of_the_functions_have_12_lines_or_less() -> None:
    assert statistics.median(_lines(function) for _, function in functions()) <= 12


def _untyped(function: Function) -> list[str]:
    every = function.args
    positional = [*every.posonlyargs, *every.args]
    if positional and positional[0].arg in {"self", "cls"}:
        positional = positional[1:]
    arguments = [*positional, *every.kwonlyargs, *filter(None, (every.vararg, every.kwarg))]
    missing = [argument.arg for argument in arguments if argument.annotation is None]
    return missing + ([] if function.returns else ["return"])


def test_every_function_is_typed() -> None:
    untyped = {_named(*found): _untyped(found[1]) for found in functions() if _untyped(found[1])}
    assert untyped == {}


def _undocumented(module: Module) -> list[str]:
    """Name the module, its public functions and classes, and their public methods, that have no docstring."""
    missing = [] if ast.get_docstring(module.tree) or not module.tree.body else [place(module, module.tree)]
    waiting: list[ast.AST] = [module.tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                overridden = any("override" in ast.unparse(one) for one in node.decorator_list)
                if not ast.get_docstring(node) and not overridden:
                    missing.append(f"{place(module, node)} {node.name}")
                waiting += [node] if isinstance(node, ast.ClassDef) else []
    return missing


def test_every_module_and_public_function_says_what_it_is() -> None:
    assert [one for module in modules() for one in _undocumented(module)] == []
