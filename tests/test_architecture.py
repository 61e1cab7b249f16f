"""The rules of lazyvid/README.md, read off the syntax trees: who imports whom, and where each foreign library lives."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "lazyvid"

# Bottom first: a room may use itself and what stands before it.
CHAIN = (
    *("errors", "arguments", "process_lock", "waiting", "lru", "memory", "out_of_memory", "timing", "stats", "frames"),
    *("storage", "index", "decoding", "clips", "video", "lookup", "training"),
)
MAY_USE = {room: frozenset(CHAIN[: i + 1]) for i, room in enumerate(CHAIN)} | {
    "recording": frozenset({*CHAIN[: CHAIN.index("index") + 1], "recording"}),
    "lerobot": frozenset({*CHAIN, "recording", "lerobot"}),
    "testing": frozenset({*CHAIN, "recording", "testing"}),
    "cli": frozenset({*CHAIN, "recording", "lerobot", "testing", "cli", "<root>"}),
    "__main__": frozenset({"cli", "__main__"}),
    # `import lazyvid` gives the public names: neither the command line, nor LeRobot's format, nor the test servers.
    "<root>": frozenset({*CHAIN, "recording"}),
}

# The files (relative to lazyvid/) in which a foreign library may be named.
STORE_ROOMS = ("storage/*", "testing/*")
HOME_OF = {
    "lance": ("index/*", "recording/layout.py"),
    "av": ("index/probe*.py", "decoding/*", "recording/*", "testing/*"),
    "torchcodec": ("decoding/torchcodec.py",),
    "lightning": ("training/datamodule.py", "training/run.py", "cli/*"),
    "pytorch_lightning": (),
    "fsspec": STORE_ROOMS,
    "s3fs": STORE_ROOMS,
    "aiobotocore": STORE_ROOMS,
    "botocore": STORE_ROOMS,
    "aiohttp": STORE_ROOMS,
    "typer": ("cli/*",),
    "rich": ("cli/*",),
    "PIL": ("cli/sheet.py", "lerobot/pictures.py"),
    "datasets": ("lerobot/*",),
    "huggingface_hub": (),
    "decord": (),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One name that a module imports."""

    target: str  # dotted, as far as it can be a module: "lazyvid.index" or "numpy"
    line: int
    lazy: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING:`


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the package."""

    name: str  # "lazyvid.index.sidecar", "lazyvid.index" for its __init__
    path: str  # "index/sidecar.py"
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "<root>"


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _targets(node: ast.AST, module: Module) -> list[str]:
    """What one node imports, with `from a import b` as "a.b"; importlib's calls with a literal name count too."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            kept = parts[: len(parts) - node.level + module.is_package]
            base = ".".join([*kept, base] if base else kept)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func).split(".")[-1]
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def imports_of(module: Module) -> list[Import]:
    """All imports of a module, wherever they stand."""

    def walk(node: ast.AST, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for target in _targets(node, module):
            yield Import(target, getattr(node, "lineno", 0), lazy, typing_only)
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = node.body if isinstance(node, ast.If) and _is_type_checking(node.test) else []
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy=lazy, typing_only=typing_only or child in guarded)

    return list(walk(module.tree, lazy=False, typing_only=False))


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        relative = file.relative_to(PACKAGE)
        parts = relative.with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(("lazyvid", *(parts[:-1] if is_package else parts)))
        found[name] = Module(name, relative.as_posix(), ast.parse(file.read_text(encoding="utf-8")), is_package)
    return found


def _inner_module(target: str) -> str | None:
    """The module of this package that an import of `target` names: the longest known prefix of it."""
    parts = target.split(".")
    if parts[0] != "lazyvid":
        return None
    names = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return next((name for name in names if name in modules()), "lazyvid")


def _room_of(target: str) -> str:
    """The room that `target` names, also where its modules are not written yet."""
    parts = target.split(".")
    if len(parts) > 1 and (parts[1] in MAY_USE or f"lazyvid.{parts[1]}" in modules()):
        return parts[1]
    return "<root>"


def wrong_directions(module: Module) -> list[str]:
    """Imports that go up or sideways; lazy and typing-only ones count, because they depend all the same."""
    return [
        f"{module.path}:{found.line} imports {found.target}: {module.room} must not know {_room_of(found.target)}"
        for found in imports_of(module)
        if found.target.split(".")[0] == "lazyvid" and _room_of(found.target) not in MAY_USE[module.room]
    ]


def strays(module: Module) -> list[str]:
    """Foreign libraries named outside the rooms made for them, and Lance at module level."""
    wrong = []
    for found in imports_of(module):
        library = found.target.split(".")[0]
        homes = HOME_OF.get(library)
        if homes is not None and not any(fnmatch(module.path, home) for home in homes):
            wrong.append(
                f"{module.path}:{found.line} imports {library}, whose place is {', '.join(homes) or 'nowhere'}"
            )
        if library == "lance" and not (found.lazy or found.typing_only):
            wrong.append(f"{module.path}:{found.line} imports lance at module level: import it inside the function")
    return wrong


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other: strongly connected components of more than one node (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return groups


def _example(source: str, path: str = "index/example.py") -> Module:
    name = "lazyvid." + path.removesuffix(".py").replace("/", ".")
    return Module(name, path, ast.parse(source), is_package=False)


def test_the_reader_sees_every_form_of_import() -> None:
    source = (
        "import av.container\n"
        "from ..decoding import plan\n"
        "from . import probe\n"
        "if TYPE_CHECKING:\n    import fsspec\n"
        "def f():\n    import lance\n    importlib.import_module('torchcodec.decoders')\n"
    )
    found = {i.target: (i.lazy, i.typing_only) for i in imports_of(_example(source))}
    assert found == {
        "av.container": (False, False),
        "lazyvid.decoding.plan": (False, False),
        "lazyvid.index.probe": (False, False),
        "fsspec": (False, True),
        "lance": (True, False),
        "torchcodec.decoders": (True, False),
    }


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("index/example.py", "from lazyvid.decoding import pool"),
        ("recording/writer.py", "def f():\n    from lazyvid import decoding"),
        ("storage/store.py", "from lazyvid import LazyVideo"),
        ("training/datasets.py", "from lazyvid.testing import write_video"),
        ("video.py", "import lazyvid.lerobot"),
        ("timing.py", "if TYPE_CHECKING:\n    from .frames import Clip"),
    ],
)
def test_a_wrong_direction_is_seen(path: str, source: str) -> None:
    assert len(wrong_directions(_example(source, path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("index/sidecar.py", "import lance"),
        ("index/sidecar.py", "import av"),
        ("video.py", "def f():\n    import lance"),
        ("decoding/pool.py", "import torchcodec"),
        ("training/loader.py", "from lightning import pytorch"),
        ("index/local.py", "import fsspec"),
    ],
)
def test_a_stray_library_is_seen(path: str, source: str) -> None:
    assert len(strays(_example(source, path))) == 1


def test_a_cycle_is_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_every_module_belongs_to_a_room() -> None:
    assert {m.room for m in modules().values()} <= MAY_USE.keys()


def test_imports_run_one_way() -> None:
    assert [line for module in modules().values() for line in wrong_directions(module)] == []


def test_foreign_libraries_stay_in_their_rooms() -> None:
    assert [line for module in modules().values() for line in strays(module)] == []


def test_no_import_cycles() -> None:
    # Imports inside functions are left out: `FrameIndex.open` is above the class it makes, and says so where it is.
    graph = {
        name: {
            inner
            for found in imports_of(module)
            if not (found.lazy or found.typing_only) and (inner := _inner_module(found.target)) not in (None, name)
        }
        for name, module in modules().items()
    }
    assert cycles(graph) == []


def test_import_lazyvid_is_light() -> None:
    code = (
        "import sys, threading, lazyvid\n"
        "heavy = {'lance', 'lightning', 'pytorch_lightning', 'torchcodec'}\n"
        "print(sorted(heavy & sys.modules.keys()), threading.active_count(), lazyvid.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"[] 1 {PACKAGE / '__init__.py'}"


def test_every_module_says_what_it_is_for() -> None:
    assert [m.path for m in modules().values() if not ast.get_docstring(m.tree)] == []


def test_nothing_prints() -> None:
    # The command line prints through rich's Console.
    wrong = [
        f"{module.path}:{node.lineno}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert wrong == []


def test_loggers_are_named_as_their_modules() -> None:
    wrong = [
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "getLogger"
        and ast.unparse(node) != "logging.getLogger(__name__)"
    ]
    wrong += [  # the root logger's own functions
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) == "logging"
        and node.attr in ("debug", "info", "warning", "error", "exception", "critical", "log", "basicConfig")
    ]
    assert wrong == []


# -- what FFmpeg is given ---------------------------------------------------------------------------------------------

OPENED_BY_NAME = {"recording/devices.py": "a camera that the user names: FFmpeg's driver of it takes no file"}
FORMAT_IN_A_NAME = {("index/probe_info.py", "demuxer"): "of DEMUXERS, or of three for audio alone"}
FILE_TYPES = ("BytesFile", "BinaryIO")


def _files_of(function: ast.AST) -> set[str]:
    """The names in a function that are file objects: opened by it, or handed to it as such."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            if ast.unparse(node.context_expr).endswith(".open('rb')"):
                names.add(node.optional_vars.id)
        elif isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) in FILE_TYPES:
            names.add(node.arg)
    return names


def unsafe_openings(module: Module) -> list[str]:
    """Where FFmpeg may open something by name, or guess what it is: such a file may make it open others."""
    demuxers = set(importlib.import_module("lazyvid.index.sniff").DEMUXERS.values())
    wrong = []
    functions = [n for n in ast.walk(module.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    calls = {call: function for function in functions for call in ast.walk(function) if isinstance(call, ast.Call)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module == "av" and any(a.name == "open" for a in node.names):
            wrong.append(f"{module.path}:{node.lineno} hides av.open behind another name")
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or not (called == "av.open" or called.startswith("av.container.")):
            continue
        named = {keyword.arg: keyword.value for keyword in node.keywords}
        mode = named.get("mode", node.args[1] if len(node.args) > 1 else None)
        if isinstance(mode, ast.Constant) and mode.value == "w":
            continue
        function = calls.get(node, module.tree)  # the innermost one comes last
        given, chosen = node.args[0], named.get("format")
        is_file = (isinstance(given, ast.Name) and given.id in _files_of(function)) or (
            isinstance(given, ast.Call) and ast.unparse(given.func) in ("_Prefix", "io.BytesIO")
        )
        if not is_file and module.path not in OPENED_BY_NAME:
            wrong.append(f"{module.path}:{node.lineno} opens {ast.unparse(given)}, which may be a name")
        is_known = isinstance(chosen, ast.Constant) and chosen.value in demuxers
        is_known |= isinstance(chosen, ast.Subscript) and ast.unparse(chosen.value) == "DEMUXERS"
        is_known |= isinstance(chosen, ast.Name) and (module.path, chosen.id) in FORMAT_IN_A_NAME
        if not is_known and module.path not in OPENED_BY_NAME:
            wrong.append(f"{module.path}:{node.lineno} lets FFmpeg guess: format={chosen and ast.unparse(chosen)}")
    return wrong


def test_ffmpeg_is_given_file_objects_and_a_known_format() -> None:
    assert [line for module in modules().values() for line in unsafe_openings(module)] == []
    assert {path for path in OPENED_BY_NAME if path not in {m.path for m in modules().values()}} == set()


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(path):\n    av.open(str(path), format='mp4')", 1),
        ("def f(path):\n    with path.open('rb') as file:\n        av.open(file)", 1),
        ("def f(path):\n    with path.open('rb') as file:\n        av.open(file, format='concat')", 1),
        ("def f(file):\n    av.open(file, format='mp4')", 1),
        ("def f(path):\n    av.open(path, 'r', format=None)", 2),
        ("from av import open", 1),
        ("def f(file: BytesFile):\n    av.open(file, format='mp4')", 0),
        ("def f(path):\n    with path.open('rb') as file:\n        av.open(file, format=DEMUXERS[kind])", 0),
        ("def f(path):\n    av.open(str(path), 'w', format='mp4')", 0),
    ],
)
def test_an_unsafe_opening_is_seen(source: str, count: int) -> None:
    assert len(unsafe_openings(_example(source))) == count


def test_what_is_global_belongs_to_a_process() -> None:
    # A function may set a global only where it looks at the pid: a forked child must not go on with its parent's.
    wrong = [
        f"{module.path}:{function.lineno} {function.name}"
        for module in modules().values()
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef)
        and any(isinstance(node, ast.Global) for node in ast.walk(function))
        and "os.getpid()" not in ast.unparse(function)
    ]
    assert wrong == []


def test_public_names_are_sorted_and_there() -> None:
    lazyvid = importlib.import_module("lazyvid")
    names = lazyvid.__all__
    # ruff's order (RUF022): constants, then classes, then the rest.
    assert names == sorted(names, key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    assert len(names) == len(set(names))
    assert [n for n in names if not hasattr(lazyvid, n)] == []


def test_every_public_name_is_documented() -> None:
    lazyvid = importlib.import_module("lazyvid")
    assert [n for n in lazyvid.__all__ if callable(getattr(lazyvid, n)) and not getattr(lazyvid, n).__doc__] == []


def test_the_file_table_says_what_the_docstrings_say() -> None:
    script = PACKAGE.parent / "scripts" / "docs" / "file_table.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
