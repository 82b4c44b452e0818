"""Export: the ONNX file computes the same as PyTorch."""

import importlib.util
import re
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

from datasets.preprocessing import preprocess
from datasets.tools.phantom import draw_chest
from models.build import build_model
from models.export import main
from models.interface import normalise
from tests.helpers.tiny import build_tiny, predict_slowly, write_dataset
from tests.helpers.tiny import write_run as write_tiny_run
from utils.commands import export
from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.distributed import launch
from utils.inference import ensemble
from utils.inference.ensemble import load_network, open_ensemble
from utils.inference.runs import find_checkpoints, read_run_config
from utils.training.checkpoints import FoldCheckpoints

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SIZE = 64


pytestmark = pytest.mark.slow


def write_run(folder, model_type, folds):
    """Write a run whose untrained networks predict probabilities from 0 to 1."""
    config = Config(
        model_type=model_type, n_splits=max(2, folds), image_size_stage2=SIZE, run_name="made", t=2
    )
    folder.mkdir()
    config.save(folder / "config.yaml")
    for fold in range(folds):
        (folder / f"fold{fold}").mkdir()
        torch.manual_seed(fold)
        network = build_model(model_type, pretrained=False, t=2, prior=0.5)
        spread_probabilities(network)
        content = {"state_dict": network.state_dict(), "model_type": model_type, "stage": 2}
        content |= {"fold": fold, "epoch": 0, "kept": [{"epoch": 0}], "config": asdict(config)}
        FoldCheckpoints(folder / f"fold{fold}").save(content)
    return folder


@torch.no_grad()
def spread_probabilities(network):
    *_, last = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    for module in network.modules():
        module.momentum = 1.0
    network.train()(normalise(images(2)))
    logits = network.eval()(normalise(images(2)))
    last.weight *= 2 / logits.std()
    last.bias = nn.Parameter(0.1 * torch.randn(1))  # a bias of 0 is left out of the graph


def images(count):
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 1, SIZE, SIZE), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def by_hand(run, fold, image):
    content = torch.load(run / f"fold{fold}" / "stage2_best.pth")
    network = build_model(content["model_type"], pretrained=False, t=2)
    network.load_state_dict(content["state_dict"])
    return torch.sigmoid(network.eval()(normalise(image))).numpy()


def run_file(path, image):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (probability,) = session.run(None, {"image": image.numpy()})
    return probability, session.get_modelmeta().custom_metadata_map


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("checkpoints") / "run", "unet_resnet18", 2)


@pytest.mark.parametrize("model_type", ["AttU_Net", "deeplabv3plus"])
def test_one_fold_computes_the_same_as_pytorch(model_type, tmp_path, capsys):
    run = write_run(tmp_path / "run", model_type, 1)
    assert main(["--run", str(run), "--folds", "0"]) == 0
    image = images(2)
    probability, _ = run_file(run / "model.onnx", image)
    assert probability.dtype == np.float32
    assert probability.std() > 0.1
    np.testing.assert_allclose(probability, by_hand(run, 0, image), atol=1e-3)
    assert "largest difference from PyTorch" in capsys.readouterr().out


@pytest.fixture(scope="module")
def averaged(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "mean.onnx"
    link = path.with_name("link.onnx")
    link.symlink_to(path)
    assert main(["--run", str(run), "--out", str(link)]) == 0
    assert link.is_symlink()
    return path


def test_several_folds_are_averaged(run, averaged):
    for count in (1, 5):
        image = images(count)
        folds = [by_hand(run, fold, image) for fold in (0, 1)]
        probability, _ = run_file(averaged, image)
        np.testing.assert_allclose(probability, (folds[0] + folds[1]) / 2, atol=1e-3)
        assert np.abs(folds[0] - folds[1]).max() > 0.1


def test_the_metadata_describe_the_input(averaged):
    _, described = run_file(averaged, images(1))
    assert "CLAHE" in described["input"]
    assert f"uint8 [B,1,{SIZE},{SIZE}]" in described["input"]
    assert (described["folds"], described["clahe"]) == ("0,1", "true")


def test_the_difference_is_measured(run, averaged):
    """Compared with the right ensemble, and with one that lacks a fold."""
    fabric = launch("cpu", 1, 1, "32-true")
    differences = []
    for folds in ("all", 0):
        config = read_run_config(run, folds)
        checkpoints = find_checkpoints(run, config, "best")
        graph = export.Graph(open_ensemble(fabric, config, checkpoints), config)
        differences.append(export.largest_differences(graph, averaged, config))
    assert differences[0].outputs < 1e-4
    assert differences[0].logits < 1e-3
    assert differences[1].outputs > 0.05
    assert differences[1].logits < 1e-3


def test_a_run_with_stage_three_and_a_presence_head_has_three_outputs(
    tmp_path, monkeypatch, capsys
):
    """Probability and gate are averaged over all kept epochs."""
    monkeypatch.setattr(ensemble, "build_model", build_tiny)
    root = write_dataset(tmp_path / "data")
    changes = {"epoch_stage3": 1, "keep_best": 2, "presence_weight": 0.1}
    wanted = {"input_mean": "0.5", "input_std": "0.1,0.2,0.3"}
    run = write_tiny_run(tmp_path / "run", root, 1, **changes, **wanted)
    assert main(["--run", str(run), "--folds", "1"]) == 0
    output = capsys.readouterr().out
    assert "probability, gate, presence of 1 folds, 4 networks" in output
    session = onnxruntime.InferenceSession(str(run / "model.onnx"))
    names = [node.name for node in session.get_outputs()]
    assert names == ["probability", "gate", "presence"]
    image = images(3)
    found = session.run(None, {"image": image.numpy()})
    settings = load_config(run / "config.yaml")
    assert settings.image_size_stage2 == SIZE
    kept = {2: ["epoch1", "epoch2"], 3: ["epoch1", "epoch2"]}
    for i, grey in enumerate(image[:, 0].numpy()):
        probability, gate, presence = predict_slowly(run, 1, grey, kept, prepared=True)
        np.testing.assert_allclose(found[0][i, 0], probability, atol=1e-3)
        np.testing.assert_allclose(found[1][i, 0], gate, atol=1e-3)
        assert found[2][i] == pytest.approx(presence, abs=1e-3)
        assert np.abs(probability - gate).max() > 0.05
    described = session.get_modelmeta().custom_metadata_map
    assert all(f"{name}: float32" in described["output"] for name in names)
    assert (described["input_mean"], described["input_std"]) == ("0.5,0.5,0.5", "0.1,0.2,0.3")
    with_logits = export._add_outputs(run / "model.onnx", ["logits_3", "presence_logits_2"])
    found = onnxruntime.InferenceSession(with_logits).run(None, {"image": image.numpy()})
    assert [array.shape for array in found[3:]] == [(3, 1, SIZE, SIZE), (3, 1)]


@pytest.mark.parametrize(("outputs", "logits"), [(2e-3, 0), (np.nan, 0), (0, 0.06), (0, np.nan)])
def test_a_file_that_differs_is_removed(outputs, logits, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "export", lambda _, __, path, ___: path.write_bytes(b"a graph"))
    found = export.Differences(outputs, logits)
    monkeypatch.setattr(export, "largest_differences", lambda *_: found)
    assert main(["--run", str(run), "--folds", "0", "--out", str(tmp_path / "x.onnx")]) == 2
    message = capsys.readouterr().err
    assert f"probabilities differ by {outputs:.2g} from" in message
    assert f"logits by {logits:.2g} " in message
    assert list(tmp_path.iterdir()) == []


def change_weights(model, prefix, change):
    """Change the weights of an ONNX graph whose names begin with `prefix`; return how many."""
    chosen = [weight for weight in model.graph.initializer if weight.name.startswith(prefix)]
    for weight in chosen:
        values = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy())
        changed = change(values).to(values.dtype).numpy()
        weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    return len(chosen)


@pytest.fixture
def shy(run, averaged, tmp_path):
    """A run whose networks predict a probability near 0 everywhere, and its ONNX graph."""
    model, folder = onnx.load(averaged), shutil.copytree(run, tmp_path / "shy")
    for i, path in enumerate(sorted(folder.glob("fold*/stage2_best.pth"))):
        content = torch.load(path)
        *_, last = (name for name in content["state_dict"] if name.endswith("bias"))
        content["state_dict"][last] -= 25
        torch.save(content, path)
        assert change_weights(model, f"ensemble.networks.{i}.{last}", lambda bias: bias - 25) == 1
    return folder, model


def test_rounded_weights_are_refused_though_all_probabilities_are_small(shy, monkeypatch, capsys):
    """The outputs differ by less than is accepted: only the logits tell the networks apart."""
    folder, model = shy
    monkeypatch.setattr(export, "export", lambda _, __, path, ___: onnx.save(model, path))
    assert main(["--run", str(folder)]) == 0
    assert float(capsys.readouterr().out.rpartition("of logits ")[2]) < 1e-3
    (folder / "model.onnx").unlink()
    assert change_weights(model, "ensemble.networks.1.", torch.Tensor.bfloat16) > 20
    assert main(["--run", str(folder)]) == 2
    message = capsys.readouterr().err
    outputs, logits = (float(value) for value in re.findall(r"by (\S+) ", message))
    assert outputs < 1e-3
    assert logits > 0.05
    assert not list(folder.glob("*.onnx"))


def test_the_file_has_no_further_outputs(averaged):
    """The names of the logits stay, on values inside the graph."""
    session = onnxruntime.InferenceSession(str(averaged))
    assert [node.name for node in session.get_outputs()] == ["probability"]


def test_the_images_of_the_test_are_prepared_as_the_run_does():
    for clahe in (True, False):
        images = export._images(Config(image_size_stage2=SIZE, clahe=clahe)).numpy()
        rng = np.random.default_rng(0)
        for image, positive in zip(images, (True, False), strict=False):
            grey, mask = draw_chest(rng, 1024, positive)
            assert mask.any() == positive
            assert np.array_equal(image[0], preprocess(grey, SIZE, clahe))
        assert images.shape == (3, 1, SIZE, SIZE)


def test_a_recurrent_network_keeps_its_number_of_steps(tmp_path):
    """The state dict does not have it."""
    config = Config(model_type="R2U_Net", t=2)
    network = build_model("R2U_Net", pretrained=False, t=2)
    content = {"state_dict": network.state_dict(), "model_type": "R2U_Net"}
    torch.save(content, tmp_path / "stage2_best.pth")
    loaded = load_network(tmp_path / "stage2_best.pth", config)
    assert {m.t for m in loaded.modules() if hasattr(m, "t")} == {2}


def test_missing_packages_are_reported_with_what_to_install(run, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    assert main(["--run", str(run)]) == 2
    message = capsys.readouterr().err
    assert "not installed: onnxscript" in message
    assert "pip install -r requirements-export.txt" in message


def test_more_weights_than_fit_in_a_file_are_refused(run, monkeypatch, capsys):
    monkeypatch.setattr(export, "_MAX_BYTES", 100 * 2**20)
    assert main(["--run", str(run)]) == 2
    assert "take 0.1 GiB, too much for one ONNX file" in capsys.readouterr().err
    assert not (run / "model.onnx").exists()


def test_a_file_whose_name_is_no_text_is_refused(run, tmp_path, capsys):
    """Onnxruntime cannot open it."""
    assert main(["--run", str(run), "--out", str(tmp_path / "s\udcf6r.onnx")]) == 2
    assert "has bytes that are no UTF-8 text; rename" in capsys.readouterr().err


def test_a_folder_that_is_not_a_run_is_refused(tmp_path, capsys):
    assert main(["--run", str(tmp_path)]) == 2
    assert "has no config.yaml" in capsys.readouterr().err


def test_a_missing_fold_is_reported(run, capsys):
    assert main(["--run", str(run), "--folds", "5"]) == 2
    assert "--folds 5: give all, or fold numbers from 0 to 1" in capsys.readouterr().err
