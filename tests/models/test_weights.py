"""Pretrained weights from files and, without internet access, from torchvision."""

import pickle
import urllib.error
import urllib.request

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from models.weights import fetch_imagenet, load_encoder
from utils.errors import InputError


class Encoder(nn.Module):
    """The first layers of a ResNet, with their names."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)


@pytest.fixture
def source():
    encoder = Encoder()
    encoder.get_buffer("bn1.running_mean").normal_()
    return encoder.state_dict()


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


FORMATS = {
    "torchvision": lambda state: state | {"fc.weight": torch.ones(9, 4), "fc.bias": torch.ones(9)},
    "network": lambda state: prefixed("backbone.", state),
    "checkpoint": lambda state: {
        "state_dict": prefixed("backbone.", state) | {"final_conv.bias": torch.ones(1)},
        "epoch": 3,
        "best": {"dice": 0.8},
    },
    "wrapped": lambda state: {"state_dict": prefixed("module.backbone.", state)},
    "encoder": lambda state: prefixed("encoder.", state),
    "old torch": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_file_format_yields_the_same_weights(file_format, source, tmp_path, capsys):
    torch.save(FORMATS[file_format](source), tmp_path / "weights.pth")
    encoder = Encoder()
    load_encoder(encoder, tmp_path / "weights.pth")
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, source[key]), key
    output = capsys.readouterr().out
    assert f"weights.pth: {5 if file_format == 'old torch' else 6} loaded, 0 missing" in output
    extra = {"torchvision": "2 unexpected ['fc.bias', 'fc.weight']"}
    extra["checkpoint"] = "1 unexpected ['final_conv.bias']"
    assert output.rstrip().endswith(extra.get(file_format, "0 unexpected"))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda state: {"layer9.weight": torch.ones(3)}, r"5 of .* 6 .*conv1\.weight"),
        (lambda state: state | {"conv1.weight": torch.ones(4, 1, 3, 3)}, r"1 of .*conv1\.weight"),
        (lambda state: {k: v for k, v in state.items() if k != "bn1.bias"}, r"1 of .*bn1\.bias"),
        (lambda state: {"epoch": 3}, "5 of"),
    ],
    ids=["other network", "other shape", "incomplete", "no weights"],
)
def test_a_file_without_all_weights_is_refused_and_changes_nothing(change, first, source, tmp_path):
    torch.save(change(source), tmp_path / "wrong.pth")
    encoder = Encoder()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match=rf"--encoder_weights .*wrong\.pth: {first}"):
        load_encoder(encoder, tmp_path / "wrong.pth")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


class Attack:
    """An object that creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, 2))]
)
def test_a_file_with_code_is_refused_and_not_run(write, tmp_path):
    write({"conv1.weight": Attack(tmp_path / "harm")}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth cannot be read"):
        load_encoder(Encoder(), tmp_path / "evil.pth")
    assert not (tmp_path / "harm").exists()


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*none\.pth"):
        load_encoder(Encoder(), tmp_path / "none.pth")


def test_a_network_without_encoder_accepts_no_file():
    with pytest.raises(InputError, match=r"--encoder_weights file\.pth: this network has no enc"):
        load_encoder(None, "file.pth")


def test_without_internet_the_alternatives_are_named(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with pytest.raises(InputError, match=r"resnet34.*--pretrained false.*--encoder_weights FILE"):
        fetch_imagenet("resnet34")


@pytest.mark.parametrize("where", ["download", "cache"])
def test_damaged_weights_are_refused(where, tmp_path, monkeypatch):
    weights = torchvision.models.ResNet34_Weights.IMAGENET1K_V1
    (tmp_path / "weights.pth").write_bytes(b"damaged")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    served = (tmp_path / "weights.pth").as_uri()
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: urllib.request.urlopen(served))
    if where == "cache":
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        name = weights.url.rsplit("/", 1)[-1]
        (tmp_path / "weights.pth").rename(tmp_path / "hub" / "checkpoints" / name)
    with pytest.raises(InputError, match=r"resnet34.*--pretrained false"):
        fetch_imagenet("resnet34")


def test_version_1_weights_are_fetched_and_their_url_printed(monkeypatch, capsys):
    fetched = []

    def get_state_dict(self, **settings):
        fetched.append((self, settings["check_hash"]))
        return {"conv1.weight": torch.ones(1)}

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    weights = torchvision.models.ResNet34_Weights.IMAGENET1K_V1
    assert fetch_imagenet("resnet34") == {"conv1.weight": torch.ones(1)}
    assert fetched == [(weights, True)]
    assert weights.url in capsys.readouterr().out
