"""Nothing on a device has double precision, which Apple's GPUs lack."""

import ast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import solver as solver_module
from tests.helpers.tiny import TinyNet, write_dataset
from tests.test_layout import MODULES, REPOSITORY
from tests.test_solver import make
from utils.inference import ensemble


def lines_with_double_precision(source):
    """Return where a module has torch.float64, torch.double or anything's `.double`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and (node.attr == "double" or ast.unparse(node) == "torch.float64")
    ]


def test_no_module_asks_torch_for_double_precision():
    assert lines_with_double_precision("a\nx.double()\ny.to(torch.float64)") == [2, 3]
    found = {
        path: lines_with_double_precision((REPOSITORY / path).read_text(encoding="utf-8"))
        for path in MODULES.values()
    }
    assert {path: lines for path, lines in found.items() if lines} == {}


class OnlySingle(TorchDispatchMode):
    """Fails on any operation whose result has double precision."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                assert leaf.dtype != torch.float64, function
        return result


def test_a_training_with_all_its_predictions_has_no_double_precision(tmp_path, monkeypatch):
    for module in (solver_module, ensemble):
        monkeypatch.setattr(module, "build_model", lambda *_, **__: TinyNet())
    solver = make(write_dataset(tmp_path / "data"), tmp_path / "fold0", ema=0.9)
    with OnlySingle():
        solver.fit()
    assert (tmp_path / "fold0" / "oof.npz").exists()
