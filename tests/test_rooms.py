"""The shape of the house: who may import whom."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "nodes", "server"}
FLOORS = [
    ["errors", "precision", "artifact", "version", "canvas"],
    ["process", "goal", "solver", "blend", "frames", "pace", "gaussianity", "metrics", "image"],
    ["schedule", "denoiser", "injection", "panel", "report"],
    ["guard"],
    ["integration", "models"],
    ["skip"],
    ["inversion"],
    ["singularity", "manifold", "morph"],
    ["singularity_panel", "skip_panel", "demo", "evaluate", "queue", "theory"],
    ["cli"],
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> list[tuple[int, str]]:
    """(dots, module) of every import in a file, in functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.module is None:  # from . import x
                found += [(node.level, alias.name) for alias in node.names]
            else:
                found.append((node.level, node.module))
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "ssi_core").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_knows_nothing_of_the_host_and_looks_down(path):
    parts = path.relative_to(ROOT / "ssi_core").with_suffix("").parts
    for dots, module in imports(path):
        assert dots or module.split(".")[0] not in HOST, f"{path.name} imports {module}"
        if parts[0] in ("__init__", "__main__"):
            continue
        # `from ..x` in models/a.py and `from .x` in a.py both name a room of the house.
        if dots == len(parts):
            room = module.split(".")[0]
            assert room in FLOOR, f"{path.name} imports {room}, which has no floor"
            assert FLOOR[room] <= FLOOR[parts[0]], f"{parts[0]} (floor {FLOOR[parts[0]]}) imports {room} from above"


def test_no_rooms_need_each_other():
    """Not on one floor either, not by way of others."""
    needs = {room: set() for room in FLOOR}
    for path in (ROOT / "ssi_core").rglob("*.py"):
        parts = path.relative_to(ROOT / "ssi_core").with_suffix("").parts
        if parts[0] in needs:
            named = {module.split(".")[0] for dots, module in imports(path) if dots == len(parts)}
            needs[parts[0]] |= named - {parts[0]}
    assert {"integration", "schedule"} <= needs["inversion"] and "manifold" in needs["theory"]  # both are seen
    TopologicalSorter(needs).prepare()  # CycleError names the circle


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_one_room_of_the_nodes_knows_comfy(path):
    allowed = HOST - {"nodes"} if path.parent.name == "host" else {"comfy_api"}
    for dots, module in imports(path):
        top = module.split(".")[0]
        assert dots or top not in HOST - allowed, f"{path} imports {module}"
        assert dots or top != "ssi_core", f"{path} must reach the engine relatively (see __init__.py)"


def test_every_room_has_a_floor():
    rooms = {p.stem if p.is_file() else p.name for p in (ROOT / "ssi_core").iterdir() if not p.name.startswith("_")}
    assert {room for room in rooms if room not in ("py.typed",)} == set(FLOOR)
