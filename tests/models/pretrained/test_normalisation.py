"""What pretrained weights are normalised with: from timm, and from the hub's cache."""

import json

import huggingface_hub
import pytest
import timm

from models.pretrained.normalisation import wanted_by
from utils.config.normalisation import IMAGENET, Normalisation

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("smp:Unet:tu-tf_efficientnet_lite0", HALF),
        ("smp:FPN:tu-tf_efficientnet_lite2.in1k", HALF),
        ("smp:Unet:tu-resnet34", IMAGENET),
        ("unet_resnet34", IMAGENET),
        ("U_Net", IMAGENET),
        ("linknet", IMAGENET),
        ("something", IMAGENET),
    ],
)
def test_timm_tells_what_its_weights_want(model_type, expected):
    assert wanted_by(model_type) == expected


def test_the_weights_of_a_tag_may_want_another():
    for name in ("vit_base_patch16_224.augreg_in21k", "vit_base_patch16_clip_224.openai"):
        found, cfg = wanted_by(f"smp:DPT:tu-{name}"), timm.get_pretrained_cfg(name)
        assert cfg is not None
        assert found.mean == pytest.approx(cfg.mean)
        assert found.std == pytest.approx(cfg.std)
        assert found != IMAGENET


def test_the_hubs_cache_tells_what_the_other_encoders_want(tmp_path, monkeypatch):
    asked = []

    def look(repository, filename, revision):
        asked.append((repository, filename))
        return str(tmp_path / filename) if (tmp_path / filename).exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", look)
    assert wanted_by("smp:Unet:xception") == IMAGENET
    config = {"mean": [127.5, 51, 102], "std": [255, 51, 25.5], "input_range": [0, 255]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = Normalisation((0.5, 0.2, 0.4), (1.0, 0.2, 0.1))
    assert wanted_by("smp:Unet:xception") == expected
    assert set(asked) == {("smp-hub/xception.imagenet", "config.json")}
