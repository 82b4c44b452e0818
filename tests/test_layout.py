"""The rooms: imports go down their order only, without circles, and no room grows into a drawer."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
COMMANDS = (
    "datasets.check",
    "datasets.prepare",
    "datasets.preview",
    "datasets.sample",
    "models.adopt",
    "models.export",
    "utils.blend",
    "utils.report.__main__",
)
DATASET = (
    "datasets.augmentation",
    "datasets.folds",
    "datasets.loaders",
    "datasets.patients",
    "datasets.sampling",
    "datasets.siim",
    "datasets.workers",
)
FLOORS = (
    ("main", "train_sfold", "predict", "evaluate"),
    ("experiment",),
    ("solver_freeze",),
    ("solver",),
    COMMANDS,
    ("utils.commands",),
    ("utils.report",),
    ("utils.inference",),
    ("utils.training.start",),
    ("utils.training",),
    ("utils.postprocessing", "utils.postprocessing.maps"),
    ("utils.evaluation",),
    DATASET,
    ("datasets.tools",),
    ("datasets.sources",),
    ("datasets.annotations",),
    ("datasets.formats",),
    ("datasets.preprocessing",),
    ("models.cpu",),
    ("models",),
    ("models.pretrained",),
    ("utils.config",),
    ("utils",),
)
"""From the top down; a module belongs to the longest name that it begins with."""
ABOVE_ALL = ("benchmarks", "tests")
"""These may import anything; nothing else may import them."""
MOST_FILES = 12


def modules() -> dict[str, Path]:
    """Name every module of the repository but tests and benchmarks."""
    paths = [path.relative_to(REPOSITORY) for path in REPOSITORY.glob("*.py")]
    for room in ("datasets", "models", "utils"):
        paths += [path.relative_to(REPOSITORY) for path in (REPOSITORY / room).rglob("*.py")]
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = modules()


def imports_of(module: str) -> set[str]:
    """Name the repository's modules that a module imports, anywhere in its code."""
    tree = ast.parse((REPOSITORY / MODULES[module]).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = {name for name in names if name in MODULES or name.split(".")[0] in ABOVE_ALL}
    # `from utils.x import f` names the package utils.x or the module; the package alone is no tie.
    return {name for name in own if not any(other.startswith(f"{name}.") for other in own)}


def floor_of(module: str) -> int:
    """Return the floor of a module, 0 at the top."""
    fits = [
        (len(name), floor)
        for floor, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(f"{name}.")
    ]
    return max(fits)[1] if fits else len(FLOORS) - 1


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_the_order_of_the_rooms(module):
    for imported in imports_of(module):
        assert imported.split(".")[0] not in ABOVE_ALL, f"{module} imports {imported}"
        assert imported not in COMMANDS, f"{module} imports the command {imported}"
        assert floor_of(imported) >= floor_of(module), f"{module} imports {imported} from above"


def test_no_module_imports_itself_by_a_detour():
    graph = {module: imports_of(module) & MODULES.keys() for module in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_no_room_holds_more_than_a_reader_can_survey():
    rooms = Counter(
        path.parent for path in MODULES.values() if path.name != "__init__.py" and path.parent.name
    )
    assert {str(room): count for room, count in rooms.items() if count > MOST_FILES} == {}


def test_every_module_stands_on_a_floor_by_name():
    below = {"datasets", "models", "utils"}
    named = {name for names in FLOORS for name in names}
    for module in MODULES.keys() - below:
        room = module if "." not in module else module.rpartition(".")[0]
        known = module in named or room in named
        assert known, f"{module} is in no room of the order"


def test_the_rules_catch_what_they_forbid(tmp_path, monkeypatch):
    """An import from above, a circle and a command that is imported, each made for a moment."""
    (tmp_path / "utils").mkdir()
    for name, text in (
        ("errors", "from utils.training.epoch import train_epoch\n"),
        ("files", "import utils.limits\n"),
        ("limits", "from utils import files\n"),
        ("memory", "import datasets.prepare\n"),
    ):
        (tmp_path / "utils" / f"{name}.py").write_text(text)
        monkeypatch.setitem(MODULES, f"utils.{name}", Path("utils") / f"{name}.py")
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    for module in ("utils.errors", "utils.memory"):
        with pytest.raises(AssertionError, match="imports"):
            test_imports_go_down_the_order_of_the_rooms(module)
    chosen = {
        name: path for name, path in MODULES.items() if name in ("utils.files", "utils.limits")
    }
    monkeypatch.setitem(globals(), "MODULES", chosen)
    with pytest.raises(pytest.fail.Exception, match="circle: "):
        test_no_module_imports_itself_by_a_detour()
