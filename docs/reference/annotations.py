"""The types that annotations name, read from the sources."""

from __future__ import annotations

import ast
import inspect
import sys
import typing
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FunctionType, ModuleType


def hints(of: type | FunctionType) -> dict[str, Any]:
    """The types of a class's fields, or of a function's parameters and result."""
    names: dict[str, Any] = {}
    for one in reversed(inspect.getmro(of) if isinstance(of, type) else (of,)):
        names |= _names(sys.modules[one.__module__])
    return typing.get_type_hints(of, names)


def _names(module: ModuleType) -> dict[str, Any]:
    """What a module's annotations may name: also what it imports for type checkers only."""
    names = dict(vars(module))
    if module.__name__ == "builtins":
        return names
    for block in ast.parse(inspect.getsource(module)).body:
        for node in block.body if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING" else ():
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                source = import_module(node.module)
                names |= {one.asname or one.name: getattr(source, one.name) for one in node.names}
            elif isinstance(node, ast.Import):
                names |= {one.name: import_module(one.name) for one in node.names}
    return names
