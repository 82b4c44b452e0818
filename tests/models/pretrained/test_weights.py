"""Pretrained weights from files and, without internet access, from torchvision."""

import pickle
import urllib.error
import urllib.request

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from models.pretrained.weights import fetch_imagenet, load_encoder, load_network
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
    assert f"weights.pth: {5 if file_format == 'old torch' else 6} tensors loaded, " in output
    extra = {"torchvision": "2 left out (fc.weight, fc.bias)"}
    extra["checkpoint"] = "1 left out (final_conv.bias)"
    assert output.rstrip().endswith(extra.get(file_format, "0 left out"))


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda state: {"layer9.weight": torch.ones(3)}, r"5 .* 6: conv1\.weight is missing; "),
        (
            lambda state: state | {"conv1.weight": torch.ones(4, 1, 3, 3)},
            r"1 .* 6: conv1\.weight is 4x1x3x3, not 4x3x3x3; choose",
        ),
        (
            lambda state: {k: v for k, v in state.items() if k != "bn1.bias"},
            r"1 .* 6: bn1\.bias is missing; choose",
        ),
        (
            lambda state: state | {"bn1.2.bias": torch.ones(4)},
            r"1 .* 6: bn1\.2\.bias is unexpected; choose",
        ),
        (lambda state: {"epoch": 3}, "5 tensors do not fit"),
    ],
    ids=["other network", "other shape", "incomplete", "deeper", "no weights"],
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


class Network(Encoder):
    """An encoder with a last convolution and, if asked for, a presence head."""

    def __init__(self, classes=1, presence_head=False):
        super().__init__()
        self.last = nn.Conv2d(4, classes, 1)
        self.presence_head = nn.Linear(4, 1) if presence_head else None


@pytest.mark.parametrize("presence_head", [False, True])
def test_a_whole_network_is_loaded_with_its_head(presence_head):
    trained, network = Network(presence_head=presence_head), Network(presence_head=presence_head)
    trained.get_buffer("bn1.running_mean").normal_()
    assert not load_network(network, trained.state_dict(), "a.pth")
    for key, value in trained.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_only_the_presence_head_may_be_new():
    trained, network = Network(), Network(presence_head=True)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert load_network(network, trained.state_dict(), "a.pth")
    for key, value in network.state_dict().items():
        expected = before[key] if key.startswith("presence_head.") else trained.state_dict()[key]
        assert torch.equal(value, expected), key


@pytest.mark.parametrize(
    ("trained", "network", "problems"),
    [
        (Network(classes=2), Network(), ["2 of its", "last.weight is 2x4x1x1, not 1x4x1x1"]),
        (Network(presence_head=True), Network(), ["2 of", "presence_head.weight is unexpected"]),
        (Encoder(), Network(), ["2 of", "last.weight is missing; last.bias is missing"]),
        (nn.Linear(2, 1), Network(), ["10 of", "conv1.weight is missing; ", "; ..."]),
    ],
    ids=["shape", "head", "missing", "other"],
)
def test_what_does_not_fit_a_network_is_named_and_changes_nothing(trained, network, problems):
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError, match=r"^--init_from a\.pth: ") as error:
        load_network(network, trained.state_dict(), "a.pth")
    assert all(problem in str(error.value) for problem in problems), str(error.value)
    for key, value in before.items():
        assert torch.equal(network.state_dict()[key], value), key
