"""Imports go one way, the device part is light, and no file of the data set is in the repository."""

from __future__ import annotations

import ast
import csv
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {  # folder -> our folders that it may import
    "edge": {"edge"},
    "calibration": {"edge", "calibration"},
    "export": {"edge", "calibration", "export"},
    "benchmarks": {"edge", "calibration", "export", "benchmarks"},
}
ROOF = ROOT / "edge" / "cli"  # the only exemption
HEAVY = {"torch", "onnx", "sklearn", "scipy", "matplotlib", "safetensors"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("folder", sorted(ALLOWED))
@pytest.mark.requirement("S-07")
def test_imports_go_one_way(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.parent == ROOF:  # it composes everything, lazily
            continue
        wrong = imported(path) & set(ALLOWED) - ALLOWED[folder]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def modules(folder: str) -> dict[str, Path]:
    """Module name -> its file."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_on_loading(path: Path, known: dict[str, Path]) -> set[str]:
    """Those of the known modules that a file imports when it is loaded: not in a function, nor for types alone."""
    names: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(node.module if f"{node.module}.{a.name}" not in known else f"{node.module}.{a.name}" for a in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return names & set(known)


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A way through the graph that comes back to where it began, [] when there is none."""
    done: set[str] = set()

    def follow(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node not in done:
            for following in sorted(arrows.get(node, ())):
                if found := follow(following, [*way, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(arrows) if (found := follow(node, []))), [])


def room(module: str) -> str:
    """A folder of `edge`, or a file beside them."""
    return ".".join(module.split(".")[:2])


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    known = modules("edge")
    assert imported_on_loading(known["edge.config"], known) >= {"edge.schema", "edge.errors", "edge.bundle.keys"}
    assert "edge.watching" not in imported_on_loading(known["edge.cli.device"], known)  # in functions only


@pytest.mark.requirement("S-07")
def test_edge_has_no_circle_neither_of_files_nor_of_rooms() -> None:
    known = modules("edge")
    files = {name: imported_on_loading(path, known) for name, path in known.items()}
    assert len(files) > 80 and circle(files) == []
    rooms: dict[str, set[str]] = {}
    for name, found in files.items():
        rooms.setdefault(room(name), set()).update(room(other) for other in found if room(other) != room(name))
    assert len(rooms) > 15 and circle(rooms) == []


@pytest.mark.requirement("S-07")
def test_nothing_hangs_on_the_roof() -> None:
    """Only `python -m edge` begins there; and its own files import no other folder when they are loaded."""
    for path in sorted((ROOT / "edge").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.parent != ROOF and path != ROOT / "edge" / "__main__.py":
            assert "edge.cli" not in text, path
    everything = {name: path for folder in ALLOWED for name, path in modules(folder).items()}
    for path in sorted(ROOF.glob("*.py")):
        assert all(name.startswith("edge") for name in imported_on_loading(path, everything)), path


def test_tensorrt_has_a_room_of_its_own() -> None:
    """What names TensorRT's Python package or CUDA's lies there; the other rooms ask what lies there."""
    for name, path in modules("edge").items():
        if not name.startswith("edge.engines.tensorrt"):
            names = set(re.findall(r"import_module\(\"(\w+)|^\s*(?:import|from) (tensorrt|cuda)\b", path.read_text(), re.M))
            assert not {n for pair in names for n in pair} & {"tensorrt", "cuda"}, path


@pytest.mark.requirement("S-07")
def test_the_device_part_and_the_phantom_never_import_heavy_packages() -> None:
    for path in [*sorted((ROOT / "edge").rglob("*.py")), *sorted((ROOT / "calibration" / "phantom").rglob("*.py"))]:
        assert not imported(path) & HEAVY, path


def test_every_device_module_imports_without_the_toolchain() -> None:
    names = [name for name in modules("edge") if not name.endswith("__main__")]
    script = (
        f"import sys, importlib\nfor name in {sorted(HEAVY | {'openvino'})!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)


def test_what_judges_an_engine_imports_with_the_tensorrt_extra_alone() -> None:
    """`validate --engine` and `gpu.sh --crops` on a TensorRT host, which has no toolchain."""
    extra = re.search(r"^tensorrt = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)
    assert extra is not None
    named = set(re.findall(r'^  "([\w-]+)', extra[1], re.M))
    assert "onnx" in named
    script = (  # refused as if absent: scipy looks torch up in sys.modules and takes what it finds there
        "import sys\nclass Absent:\n    def find_spec(self, name, *_):\n"
        f"        if name in {sorted(HEAVY - named)!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\nimport export.report.engine_gate\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)


def test_no_file_of_the_data_set_is_in_the_repository() -> None:
    manifest = ROOT.parent / "shared" / "data" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("../shared/data is not here")
    with manifest.open(newline="") as file:
        known = {row["sha256"] for row in csv.DictReader(file)}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] not in known, name


# export's rooms and what stands at its top, from the ground up: each imports what comes before it, and nothing after it.
EXPORT = (
    "atomic", "jobs", "model", "training", "int8", "heads", "recipe", "data", "stamps", "report", "phantoms", "bundle", "stages",
    "site", "pipeline", "runs", "crossval", "explain", "ladder",
)  # fmt: skip


def arrows(folder: str) -> dict[str, set[str]]:
    """Module of `folder` -> its own modules that it imports, wherever in the file, for types or not."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / folder).rglob("*.py")
    }
    out = {}
    for name, path in paths.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                own = {f"{node.module}.{alias.name}" for alias in node.names} & set(paths)
                found |= own or {node.module}
        out[name] = (found & set(paths)) - {name}
    return out


@pytest.mark.requirement("E-03")
def test_each_room_of_export_imports_only_what_lies_below_it() -> None:
    rooms = [name.split(".")[1] for name in arrows("export") if "." in name]
    assert set(rooms) == set(EXPORT)
    for name, targets in arrows("export").items():
        for target in (t for t in targets if "." in name and "." in t):
            room, below = name.split(".")[1], target.split(".")[1]
            assert EXPORT.index(below) <= EXPORT.index(room), f"{name} imports {target}, which lies above it"
    assert not any("export.stages" in t for name, ts in arrows("export").items() if ".site." in name for t in ts)


@pytest.mark.requirement("E-03")
@pytest.mark.parametrize("folder", ["export", "calibration"])
def test_no_imports_go_round_in_a_circle(folder: str) -> None:
    left = arrows(folder)
    while free := {name for name, targets in left.items() if not targets & set(left)}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert not left, f"a circle among {sorted(left)}"


def test_the_pipeline_is_followed_by_name() -> None:
    for name in ("pipeline", "runs"):
        called = {
            node.func.id
            for node in ast.walk(ast.parse((ROOT / "export" / f"{name}.py").read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"getattr", "eval", "vars"}, name


@pytest.mark.requirement("E-03")
def test_no_stage_is_handed_the_pipeline() -> None:
    for folder in ("stages", "report", "heads", "int8", "training", "model"):
        for path in sorted((ROOT / "export" / folder).rglob("*.py")):
            assert "Pipeline" not in path.read_text(encoding="utf-8"), path
