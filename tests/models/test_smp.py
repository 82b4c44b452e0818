"""Networks of segmentation-models-pytorch: names, and weights without internet access."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch import encoders

from models.build import build_model
from models.smp import build_smp
from utils.errors import InputError

ARCHITECTURES = [a.__name__ for a in smp._MODEL_ARCHITECTURES if a is not smp.DPT]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_outputs_a_logit_for_each_pixel(architecture):
    network = build_model(f"smp:{architecture}:resnet18", pretrained=False).to("meta")
    assert network(torch.empty(2, 3, 128, 192, device="meta")).shape == (2, 1, 128, 192)


def test_a_vision_transformer_accepts_any_image_size():
    network = build_model("smp:DPT:tu-vit_tiny_patch16_224", pretrained=False).to("meta")
    assert network(torch.empty(2, 3, 128, 192, device="meta")).shape == (2, 1, 128, 192)


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("Unt", "resnet34", "no architecture 'Unt'; did you mean Unet,"),
        ("unet", "resnet34", "no architecture 'unet'; did you mean Unet,"),
        ("Unet", "resnet43", "no encoder 'resnet43'; did you mean resnet34,"),
        ("Unet", "se_resnext50_32x4", "did you mean se_resnext50_32x4d,"),
        ("Unet", "tu-efficientnet_b44", "did you mean tu-efficientnet_b4,"),
        ("UnetPlusPlus", "mit_b0", "smp:UnetPlusPlus:mit_b0 cannot be built: "),
        ("Unet", "tu-resnet18.nothing", "cannot be built: .*tag"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture, encoder, message):
    with pytest.raises(InputError, match=message):
        build_smp(architecture, encoder, pretrained=False)


def test_an_encoder_with_a_fixed_image_size_is_refused():
    with pytest.raises(InputError, match=r"512x512 .*224.*choose an encoder that accepts any"):
        build_model("smp:Unet:tu-swin_tiny_patch4_window7_224", pretrained=False)


def unreachable(*_, **__):
    raise ConnectionError("Name or service not known")


@pytest.mark.parametrize("name", ["linknet", "smp:Unet:tu-resnet10t"])
def test_without_internet_the_alternatives_are_named(name, monkeypatch):
    monkeypatch.setattr(encoders, "hf_hub_download", unreachable)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    with pytest.raises(InputError, match=r"resnet.*not known.*--pretrained false.*--encoder_w"):
        build_model(name)


def test_pretrained_fetches_the_weights_of_the_encoder(monkeypatch, tmp_path, capsys):
    source = build_smp("Unet", "resnet18", pretrained=False).get_submodule("encoder").state_dict()
    save_file(source, tmp_path / "model.safetensors")
    fetched = []

    def download(repository, filename, revision):
        fetched.append(repository)
        return tmp_path / filename

    monkeypatch.setattr(encoders, "hf_hub_download", download)
    built = build_model("smp:Unet:resnet18")
    assert set(fetched) == {"smp-hub/resnet18.imagenet"}
    assert "imagenet weights for resnet18" in capsys.readouterr().out
    for key, value in built.get_submodule("encoder").state_dict().items():
        assert torch.equal(value, source[key]), key


def test_pretrained_fetches_timm_weights_for_timm_encoders(monkeypatch, capsys):
    source = timm.create_model("resnet10t").state_dict()
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: source)
    built = build_model("smp:Unet:tu-resnet10t")
    assert "timm's weights for tu-resnet10t" in capsys.readouterr().out
    assert torch.equal(
        built.get_parameter("encoder.model.layer4.0.conv1.weight"), source["layer4.0.conv1.weight"]
    )


def test_an_encoder_without_imagenet_weights_uses_the_first_ones(monkeypatch, capsys):
    monkeypatch.setattr(encoders, "hf_hub_download", unreachable)
    with pytest.raises(InputError, match="could not fetch pretrained weights for dpn68b"):
        build_smp("Unet", "dpn68b", pretrained=True)
    assert "imagenet+5k weights for dpn68b" in capsys.readouterr().out
