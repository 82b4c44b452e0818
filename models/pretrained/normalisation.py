"""The mean and standard deviation that the pretrained weights of an encoder were trained with."""

import json

from utils.config.normalisation import IMAGENET, Normalisation


def wanted_by(model_type: str) -> Normalisation:
    """Return the normalisation of a network's pretrained encoder; ImageNet's if unknown.

    The package's own encoders describe theirs in a file next to their weights on the hub, which is
    read from the hub's cache; nothing is downloaded.
    """
    kind, *parts = model_type.split(":")
    if kind != "smp" or len(parts) != 2:
        return IMAGENET
    encoder = parts[1]
    found = _of_timm(encoder[3:]) if encoder.startswith("tu-") else _of_smp(encoder)
    mean, std = found.get("mean"), found.get("std")
    if not mean or not std or len(mean) != 3 or len(std) != 3:
        return IMAGENET
    scale = max(found.get("input_range") or [1])
    (r, g, b), (dr, dg, db) = ([value / scale for value in part] for part in (mean, std))
    return Normalisation((r, g, b), (dr, dg, db))


def weights_name(encoder: str) -> str:
    """Return which of the package's weights an encoder starts from: ImageNet's, else the first."""
    from segmentation_models_pytorch.encoders import encoders

    names = list(encoders[encoder]["pretrained_settings"])
    return "imagenet" if "imagenet" in names else names[0]


def _of_timm(name: str) -> dict:
    import timm

    config = timm.get_pretrained_cfg(name)
    return {} if config is None else {"mean": config.mean, "std": config.std}


def _of_smp(encoder: str) -> dict:
    import huggingface_hub
    from segmentation_models_pytorch.encoders import encoders

    settings = encoders[encoder]["pretrained_settings"][weights_name(encoder)]
    path = huggingface_hub.try_to_load_from_cache(
        settings["repo_id"], "config.json", revision=settings["revision"]
    )
    if not isinstance(path, str):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)
