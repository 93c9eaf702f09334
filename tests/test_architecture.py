"""Arrows between rooms go down and only as docs/architecture.md lists them; modules do no work when they are imported.

A small `ast` walk over src/: nothing is imported, so the test needs none of the packages.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "bloomery"
MODULES = sorted(PACKAGE.rglob("*.py"))
LOWER = {"core", "objectives", "scaling", "diagnosis"}
ALGORITHMS = {"curate", "tokens", "model", "train", "generate", "align", "evaluate", "chat"}

ARROWS = {
    "": {"cli"},  # __main__
    "cli": {"pipeline", "web", "stages", "scaling", "diagnosis", "core"} | ALGORITHMS,
    "pipeline": {"stages", "curate", "diagnosis", "core"},
    "web": {"pipeline", "chat", "generate", "evaluate", "curate", "tokens", "model", "diagnosis", "core"},
    "stages": ALGORITHMS | LOWER,
    "align": {"train", "generate", "objectives", "tokens", "model", "core"},
    "evaluate": {"generate", "objectives", "curate", "tokens", "model", "core"},
    "chat": {"generate", "tokens", "core"},
    "train": {"model", "objectives", "tokens", "scaling", "diagnosis", "core"},
    "generate": {"model", "tokens", "core"},
    "curate": {"core"},
    "tokens": {"core"},
    "model": {"core"},
    "core": set(),
    "objectives": set(),
    "scaling": set(),
    "diagnosis": set(),
}

TORCH_ROOMS = ("objectives", "model", "train", "generate", "align", "evaluate", "chat")

ONLY_IN = {
    "ray": ["core/ray_pool.py", "pipeline/launch.py"],
    "daft": [],
    "torch.distributed": ["core/dist.py", "train/sharding.py", "train/pipelining.py", "train/checkpoint.py"],
    "fastapi": [],
    "sqlalchemy": ["web/"],
    "alembic": ["web/"],
    "starlette": ["chat/server.py", "web/"],
    "uvicorn": ["chat/server.py", "web/"],
    "vllm": ["generate/vllm_engine.py"],
    "reasoning_gym": ["align/reasoning_child.py", "curate/reasoning_gym_tasks.py"],
    "torch": ["core/dist.py", "tokens/loader.py", "stages/", *(f"{room}/" for room in TORCH_ROOMS)],
    "typer": ["cli/"],
}

CALLS_AT_IMPORT = {
    # making names, patterns, types and constants; nothing that touches the world
    "logging.getLogger", "re.compile", "TypeVar", "ParamSpec", "Path", "frozenset", "set", "dict", "dict.fromkeys",
    "list", "tuple", "range", "len", "sorted", "str", "int", "float", "bytes", "max", "min", "sum", "zip", "enumerate", "map",
    "chr", "ord", "StringConstraints", "any", "all", "str.maketrans", "get_args", "int.from_bytes",
    "NamedTuple", "TypedDict",
    "namedtuple", "MappingProxyType", "dataclass", "dataclasses.dataclass", "dataclasses.field", "field", "Field", "ConfigDict",
    "Slot", "Stage", "Annotated", "BeforeValidator", "AfterValidator", "PlainSerializer", "Literal", "math.log", "math.sqrt", "math.exp",
    "pa.schema", "pa.field", "pa.list_", "pa.string", "pa.large_string", "pa.int32", "pa.int64", "pa.float32", "pa.float64", "pa.bool_",
    "pl.col", "pl.lit", "np.array", "np.uint64", "np.int64", "np.uint32", "np.uint8", "np.dtype", "np.frombuffer", "numba.njit", "njit",
    "typer.Typer", "typer.Option", "typer.Argument", "app.command", "ModuleType", "uuid.UUID", "uuid.uuid5",
}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports_of(tree: ast.AST) -> list[tuple[str, ast.stmt]]:
    """Every imported module with its statement, also under TYPE_CHECKING and inside functions."""
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; imports are absolute"
            found.append((node.module or "", node))
            found.extend((f"{node.module}.{alias.name}", node) for alias in node.names)
    return found


def target_module(name: str) -> Path | None:
    """The file of a bloomery module's dotted name, if it is one."""
    relative = name.removeprefix("bloomery").strip(".").replace(".", "/")
    for path in (PACKAGE / f"{relative}.py", PACKAGE / relative / "__init__.py"):
        if name.startswith("bloomery.") and path.is_file():
            return path
    return None


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def test_arrows_between_rooms_only_go_down_and_only_as_listed(trees):
    wrong = []
    for path, tree in trees.items():
        for name, statement in imports_of(tree):
            target = target_module(name)
            if target is None or room_of(target) in ("", room_of(path)):
                continue
            if room_of(target) not in ARROWS.get(room_of(path), set()):
                wrong.append(f"{name_of(path)}:{statement.lineno} imports {name}")
    assert wrong == []


def test_training_knows_only_the_terms_of_objectives_and_only_the_loader_of_tokens(trees):
    wrong = []
    for path, tree in trees.items():
        for name, statement in imports_of(tree) if room_of(path) == "train" else []:
            target = target_module(name)
            allowed = {"objectives": "objectives/terms.py", "tokens": "tokens/loader.py"}.get(room_of(target)) if target else None
            if allowed and target.name != "__init__.py" and name_of(target) != allowed:
                wrong.append(f"{name_of(path)}:{statement.lineno} imports {name}")
    assert wrong == []


def test_stages_never_import_each_other(trees):
    wrong = [
        f"{name_of(path)}:{statement.lineno} imports {name}"
        for path, tree in trees.items()
        for name, statement in imports_of(tree)
        if room_of(path) == "stages" and name.startswith("bloomery.stages.")
    ]
    assert wrong == []


def test_no_circle_of_imports_also_not_under_type_checking(trees):
    graph = {path: {target for name, _ in imports_of(tree) if (target := target_module(name))} - {path} for path, tree in trees.items()}
    done: set[Path] = set()

    def visit(path: Path, trail: list[Path]) -> None:
        assert path not in trail, "circle: " + " -> ".join(name_of(p) for p in [*trail[trail.index(path) :], path])
        if path not in done:
            for target in sorted(graph[path]):
                visit(target, [*trail, path])
            done.add(path)

    for path in MODULES:
        visit(path, [])


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_a_heavy_package_is_imported_only_in_its_rooms(trees, package):
    wrong = []
    for path, tree in trees.items():
        uses = any(name == package or name.startswith(f"{package}.") for name, _ in imports_of(tree))
        if uses and not name_of(path).startswith(tuple(ONLY_IN[package])):
            wrong.append(name_of(path))
    assert wrong == []


def test_imports_stand_at_the_top_of_a_module_but_in_cli(trees):
    wrong = []
    for path, tree in trees.items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and room_of(path) != "cli":
                wrong += [f"{name_of(path)}:{node.lineno}" for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert wrong == []


def test_an_init_file_is_a_docstring_and_nothing_else(trees):
    for path, tree in trees.items():
        if path.name == "__init__.py":
            assert ast.get_docstring(tree) and len(tree.body) == 1, f"{name_of(path)} must hold a docstring and nothing else"


def test_every_module_begins_with_a_docstring_and_has_a_name_that_says_something(trees):
    for path, tree in trees.items():
        docstring = ast.get_docstring(tree)
        assert docstring, f"{name_of(path)} has no docstring"
        assert path.stem not in ("utils", "common", "helpers", "base", "misc", "util"), name_of(path)


def test_a_module_does_no_work_when_it_is_imported(trees):
    classes = {node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    wrong = []
    for path, tree in trees.items():
        own_functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for statement in top_level_statements(tree):
            for call in calls_run_at_import(statement):
                name = ast.unparse(call.func)
                method = call.func.attr if isinstance(call.func, ast.Attribute) else None
                is_plain = name in CALLS_AT_IMPORT or name in classes | own_functions or method in TEXT_METHODS
                is_expression = chain_root(call) in ("pl", "pa", "sa")
                is_command = room_of(path) == "cli" and name.startswith(("app.", "typer."))
                if not (is_plain or is_expression or is_command):
                    wrong.append(f"{name_of(path)}:{call.lineno}: {name}()")
    assert wrong == []


TEXT_METHODS = ("join", "split", "format", "strip", "encode", "items", "keys", "values")


def top_level_statements(tree: ast.Module) -> list[ast.stmt]:
    """Statements run at import: the module's and its classes' bodies, but not what stands under `if __name__ == "__main__"`."""
    found: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            found += [inner for inner in statement.body if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)]
        elif not (isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)):
            found.append(statement)
    return found


def calls_run_at_import(statement: ast.stmt) -> list[ast.Call]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return []  # its decorators and defaults are seen by ruff's B008
    inside_lambdas = {id(call) for node in ast.walk(statement) if isinstance(node, ast.Lambda) for call in ast.walk(node.body)}
    return [node for node in ast.walk(statement) if isinstance(node, ast.Call) and id(node) not in inside_lambdas]


def chain_root(call: ast.Call) -> str:
    """The name at the start of `pl.col("x").str.len()`."""
    node: ast.expr = call
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_nothing_prints_outside_the_command_line(trees):
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and room_of(path) != "cli"
    ]
    assert wrong == []


def test_no_global_random_state_and_no_builtin_hash_decides_anything(trees):
    wrong = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                is_global = name.startswith(("random.", "np.random.", "numpy.random.")) and name.rpartition(".")[2] not in SEEDED
                if is_global or name in ("hash", "torch.manual_seed"):
                    wrong.append(f"{name_of(path)}:{node.lineno}: {name}()")
    assert wrong == []


SEEDED = {"Random", "default_rng", "Generator", "Philox", "PCG64", "SeedSequence"}
