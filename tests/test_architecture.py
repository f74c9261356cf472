"""The floors of docs/architecture.md, held by reading the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ckstore

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(ckstore.__file__).parent

FLOORS: dict[str, int] = {
    "errors": 0,
    "digest": 0,
    "progress": 0,
    "durable": 0,
    "lock": 0,
    "units": 0,
    "setting": 0,
    "filesystem": 0,
    "objects": 1,
    "codec": 1,
    "pack": 1,
    "config": 1,
    "plugins": 1,
    "graph": 2,
    "storage": 2,
    "remote": 2,
    "repository": 3,
    "torch": 3,
    "files": 3,
    "settings_file": 4,
    "checkpoint": 4,
    "sync": 4,
    "porcelain": 5,
    "train": 6,
    "api": 7,
    "testing": 8,
    "demo": 8,
    "cli": 9,
}
"""The floor of each top-level part. Imports go down only; parts of one floor never import each other."""

GROUND = ["errors", "digest", "progress", "durable", "lock", "units", "setting", "filesystem"]
"""The ground floor is a staircase: each may use those before it."""

PRINTS = {"cli", "demo"}
READS_ENVIRONMENT = {"cli", "api"}
WRITES = {"durable"}

HEAVY = {"torch", "numpy", "boto3", "google", "azure", "safetensors"}
"""Packages that importing ckstore, or its command, must not load."""

NUMERIC = {
    "graph/numbers.py",
    *(f"codec/{name}.py" for name in ("arrays", "numpy_passes", "packing", "transpose")),
    *(f"storage/{name}.py" for name in ("inventory", "sweep", "standing", "costs", "rewriter")),
}
"""Below the edge only these use numpy, and they are imported where numbers are at hand."""

WRITE_CALLS = {
    "open", "write", "writev", "pwrite", "fsync", "fdatasync", "rename", "replace", "unlink", "remove", "rmdir",
    "truncate", "ftruncate", "mkdir", "makedirs", "link", "symlink",
}  # fmt: skip
"""Functions of os that change the disk."""


def sources() -> Iterator[tuple[str, Path, ast.Module]]:
    """Top-level part, path and syntax tree of every module."""
    for path in sorted(ROOT.rglob("*.py")):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        yield part, path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Every absolute module name that is imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor they lead to"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def test_every_part_has_a_floor() -> None:
    assert {part for part, _, _ in sources()} - {"__init__"} == set(FLOORS)


def test_imports_go_down() -> None:
    wrong = []
    for part, path, tree in sources():
        if part == "__init__":
            continue
        for name, _ in imported(tree):
            names = name.split(".")
            if names[0] != "ckstore" or len(names) < 2:
                continue
            target = names[1]
            if target == part or target not in FLOORS:
                continue
            down = FLOORS[target] < FLOORS[part]
            if part in GROUND and target in GROUND:
                down = GROUND.index(target) < GROUND.index(part)
            if not down:
                wrong.append(f"{path.relative_to(ROOT)} imports ckstore.{target}")
    assert not wrong


def test_verbs_do_not_import_each_other() -> None:
    wrong = [
        f"{path.name}: {name}"
        for part, path, tree in sources()
        for name, _ in imported(tree)
        if part == "porcelain" and name.startswith("ckstore.porcelain.")
    ]
    assert not wrong


def test_no_import_cycles_between_modules() -> None:
    modules = {_module_name(path): tree for _, path, tree in sources()}
    edges = {name: _runtime_imports(tree, set(modules)) - {name} for name, tree in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join([*trail, name])}"
        if name not in done:
            for target in sorted(edges[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(modules):
        visit(name, ())


def _module_name(path: Path) -> str:
    parts = ("ckstore", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _runtime_imports(tree: ast.Module, known: set[str]) -> set[str]:
    found = set()
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name, _ in imported(ast.Module([node], [])):
                found.update({name, name.rpartition(".")[0]} & known)
    return found - {"ckstore"}


def test_only_the_command_prints_or_exits() -> None:
    wrong = []
    for part, path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and part not in PRINTS:
                called = ast.unparse(node.func)
                if called in ("print", "exit", "quit", "sys.exit", "os._exit"):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert not wrong


def test_only_some_read_the_environment() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for part, path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("os.environ", "os.getenv")
        and part not in READS_ENVIRONMENT
    ]
    assert not wrong


def test_only_durable_changes_the_disk() -> None:
    wrong = []
    for part, path, tree in sources():
        if part in WRITES:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            harmless = called == "os.open" and ("os.O_RDONLY" in ast.unparse(node) or "os.devnull" in ast.unparse(node))
            if called.startswith("os.") and called.removeprefix("os.") in WRITE_CALLS and not harmless:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes", "touch"):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
            if called.endswith(".open") or called == "open":
                modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                if any(isinstance(mode, str) and set(mode) & set("wax+") and len(mode) <= 3 for mode in modes):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    assert not wrong


def test_only_the_index_imports_lmdb_and_only_the_edge_torch() -> None:
    wrong = []
    for part, path, tree in sources():
        for name, _ in imported(tree):
            top = name.split(".")[0]
            inside = path.relative_to(ROOT).as_posix()
            if top == "lmdb" and inside != "storage/environment.py":
                wrong.append(f"{inside} imports lmdb")
            numeric = inside in NUMERIC and top == "numpy"
            if top in ("torch", "numpy") and part not in ("torch", "train", "demo", "testing") and not numeric:
                wrong.append(f"{inside} imports {top}")
    assert not wrong


def test_only_one_module_knows_whether_the_kernel_was_built() -> None:
    known = {
        path.relative_to(ROOT).as_posix()
        for _, path, tree in sources()
        for name, _ in imported(tree)
        if name.endswith("._kernel")
    }
    assert known == {"codec/compiled.py"}


def test_modules_say_what_they_are() -> None:
    silent = [str(path) for _, path, tree in sources() if not ast.get_docstring(tree)]
    assert not silent


def test_no_module_holds_two_concepts() -> None:
    long = {str(path.relative_to(ROOT)): text.count("\n") for _, path, _ in sources() for text in [path.read_text()]}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}
    assert not [name for name in long if Path(name).stem in {"utils", "util", "helpers", "common", "misc"}]


@pytest.mark.parametrize(
    "statement",
    [
        "import ckstore",
        "import ckstore; ckstore.open; ckstore.Integrity",
        "import ckstore.cli.main",
        "import ckstore.porcelain.commit, ckstore.porcelain.log, ckstore.porcelain.checkout",
        "import ckstore.porcelain.show, ckstore.porcelain.diff, ckstore.porcelain.diverge, ckstore.porcelain.validate",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(sorted({{name.split('.')[0] for name in sys.modules}} & {HEAVY!r}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_public_names_resolve_and_are_documented() -> None:
    for name in ckstore.__all__:
        value = getattr(ckstore, name)
        assert name == "__version__" or value.__doc__, name
    assert sorted(ckstore.__all__) == dir(ckstore)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ckstore.no_such_name
