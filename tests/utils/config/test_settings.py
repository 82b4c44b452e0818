"""Settings: each is the same from the command line, from YAML and from a saved run."""

import ast
import inspect
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.unet_family import VARIANTS
from tests.helpers.tiny import as_flags
from utils.config import settings as settings_module
from utils.config.checks import RECURRENT, check_settings, describe_unused
from utils.config.command_line import load_config, parse_config
from utils.config.settings import Config
from utils.config.stages import build_stages, gate_stage, mask_stage
from utils.config.tta import parse_tta
from utils.errors import InputError

OTHER: dict[str, Any] = {
    "model_type": "another",
    "pretrained": False,
    "encoder_weights": "file.pth",
    "init_from": "checkpoints/unet_resnet34/lungs",
    "input_mean": "0.5,0.4,0.3",
    "input_std": "0.2,0.2,0.1",
    "t": 2,
    "two_stage": False,
    "image_size_stage1": 64,
    "batch_size_stage1": 3,
    "epoch_stage1": 61,
    "epoch_stage1_freeze": 7,
    "image_size_stage2": 96,
    "batch_size_stage2": 5,
    "epoch_stage2": 21,
    "epoch_stage2_accumulation": 9,
    "accumulation_steps": 11,
    "lr": 1e-7,
    "lr_stage2": 3e-05,
    "epoch_stage3": 4,
    "lr_stage3": 2e-07,
    "loss": "bce:3,dice:1,focal:4",
    "loss_stage2": "bce(0.75):2,lovasz",
    "loss_stage3": "dice_image",
    "positive_share": "0.8:0.4",
    "positive_share_stage2": 0.5,
    "schedule": "restarts",
    "schedule_stage2": "linear",
    "warmup_epochs": 2,
    "restart_epochs": 5,
    "decay_epochs": 2,
    "optimizer": "sgd",
    "momentum": 0.5,
    "ema": 0.999,
    "keep_best": 3,
    "best_by": "loss",
    "validate_every": 5,
    "presence_weight": 0.1,
    "augmentation": "winner",
    "augment_at": "source",
    "mask_resize": "area",
    "tta": "hflip,scales",
    "weight_decay": 0.25,
    "augmentation_flag": False,
    "clahe": False,
    "n_splits": 7,
    "folds": "0,3",
    "groups": "patients.csv",
    "exclude": "bad.txt",
    "allow_empty": True,
    "mode": "train_stage2",
    "seed": 2**40,
    "run_name": "2024-05-06",
    "resume": True,
    "num_workers": 0,
    "pictures": False,
    "cases": 9,
    "accelerator": "cpu",
    "devices": 2,
    "num_nodes": 3,
    "precision": "bf16-mixed",
    "memory_format": "contiguous",
    "cache": False,
    "cache_dir": "/fast",
    "compile": True,
    "clip_grad_norm": 0.5,
    "deterministic": True,
    "model_path": "/elsewhere",
    "dataset_root": "/data",
}
NEEDED: dict[str, dict[str, Any]] = {
    "input_mean": {"input_std": "0.5,0.5,0.5"},
    "input_std": {"input_mean": "0.5,0.5,0.5"},
    "init_from": {"pretrained": False},
    "mode": {"run_name": "x"},
    "resume": {"run_name": "x"},
    "loss_stage3": {"epoch_stage3": 1},
    "schedule": {"restart_epochs": 5},
    "schedule_stage2": {"decay_epochs": 2},
    "restart_epochs": {"schedule": "restarts"},
    "decay_epochs": {"schedule": "linear"},
}
"""Other settings that a setting requires."""


def read(*words):
    return parse_config([str(word) for word in words], "A description.")


def test_every_setting_is_tested():
    assert OTHER.keys() == {field.name for field in fields(Config)}
    assert all(getattr(Config(), name) != value for name, value in OTHER.items())


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_is_the_same_from_flag_recipe_and_config_yaml(name, tmp_path):
    settings = {name: OTHER[name]} | NEEDED.get(name, {})
    expected = Config(**settings)
    assert read(*as_flags(settings)) == (expected, frozenset(settings))
    expected.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == expected
    assert read("--config", tmp_path / "config.yaml")[0] == expected
    assert type(getattr(load_config(tmp_path / "config.yaml"), name)) is type(OTHER[name])


def test_all_settings_together(tmp_path):
    """Except for three that contradict others."""
    settings = OTHER | {"two_stage": True, "augmentation_flag": True}
    del settings["init_from"]
    everything = Config(**settings)
    assert read(*as_flags(settings)) == (everything, frozenset(settings))
    everything.save(tmp_path / "config.yaml")
    assert read("--config", tmp_path / "config.yaml") == (everything, frozenset(OTHER))


def test_a_run_that_starts_from_a_network_downloads_nothing(tmp_path):
    """Unless asked to, and also if it is started again from its config.yaml."""
    settings, given = read("--init_from", "lungs")
    assert (settings, given) == (Config(init_from="lungs", pretrained=False), {"init_from"})
    settings.save(tmp_path / "config.yaml")
    assert read("--config", tmp_path / "config.yaml")[0] == settings


def test_without_flags_all_settings_are_defaults():
    assert read() == (Config(), frozenset())


@pytest.mark.parametrize("name", ["2024-05-06", "007", "2e-4", "1E5", "true", "0x10", "12:30:00"])
def test_a_run_name_that_looks_like_a_number_stays_text(name, tmp_path):
    settings, _ = read("--run_name", name)
    assert settings.run_name == name
    settings.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == settings
    assert read("--config", tmp_path / "config.yaml")[0] == settings


def test_flags_win_over_the_recipe_and_both_count_as_given(tmp_path):
    (tmp_path / "recipe.yaml").write_text("lr: 2e-3\nepoch_stage1: 9\n")
    settings, given = read("--config", tmp_path / "recipe.yaml", "--epoch_stage1", 5)
    assert (settings.lr, settings.epoch_stage1) == (2e-3, 5)
    assert given == {"lr", "epoch_stage1"}


BOOLEANS = [field.name for field in fields(Config) if field.type is bool]


@pytest.mark.parametrize("name", BOOLEANS)
def test_booleans_are_true_or_false(name):
    run = ["--run_name", "x"]
    assert getattr(read(f"--{name}", "false", *run)[0], name) is False
    assert getattr(read(f"--{name}", "true", *run)[0], name) is True


def refused(capsys, *words):
    """Parse a command line that is refused with exit code 2, and return the error message."""
    with pytest.raises(SystemExit) as stopped:
        read(*words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["maybe"], ["2"]])
def test_other_values_of_a_boolean_are_refused(words, capsys):
    assert "two_stage" in refused(capsys, "--two_stage", *words)


@pytest.mark.parametrize(
    "words",
    [("--lr", "fast"), ("--epoch_stage1", "1.5"), ("--mode", "test"), ("--epochs", "3")],
)
def test_unknown_flags_and_values_are_refused_by_name(words, capsys):
    assert words[0].strip("-") in refused(capsys, *words)


def test_an_abbreviated_flag_is_refused(capsys):
    assert "--epoch_stage1_fr" in refused(capsys, "--epoch_stage1_fr", "1")


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("epoch_stage1: 9\nlearning_rate: 1\n")
    assert "learning_rate" in refused(capsys, "--config", tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "data",
    [None, b"", b"- 1\n", b"lr: [", b"learning_rate: 1\n", b"\xff\xfe\x00", b"lr: fast\n"],
    ids=["missing", "empty", "list", "yaml", "key", "bytes", "type"],
)
def test_an_unusable_saved_run_is_named(tmp_path, data):
    if data is not None:
        (tmp_path / "config.yaml").write_bytes(data)
    with pytest.raises(InputError, match=r"config\.yaml cannot be read as"):
        load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("all", [0, 1, 2, 3]), ("0", [0]), ("0,3", [0, 3]), ("3, 0,3", [0, 3]), ("2,1", [1, 2])],
)
def test_folds_are_all_one_or_several(text, numbers):
    assert read("--folds", text, "--n_splits", 4)[0].fold_numbers() == numbers


@pytest.mark.parametrize("text", ["4", "-1", "1-3", "", "0,", "x", "[0,3]", "1.0", "9" * 5000])
def test_invalid_folds_are_refused(text):
    message = r"--folds .* from 0 to 3 separated by commas, such as 0,3$"
    with pytest.raises(InputError, match=message):
        check_settings(Config(folds=text, n_splits=4))
    with pytest.raises(InputError, match=message):
        read(f"--folds={text}", "--n_splits", 4)


INTEGERS_BELOW_RANGE = {
    **dict.fromkeys(
        ("image_size_stage1", "image_size_stage2", "t", "keep_best", "validate_every"), 0
    ),
    "decay_epochs": 0,
    "cases": 0,
    **dict.fromkeys(("batch_size_stage1", "batch_size_stage2", "num_nodes"), 0),
    **dict.fromkeys(("epoch_stage1", "epoch_stage2", "accumulation_steps"), 0),
    **dict.fromkeys(("epoch_stage1_freeze", "epoch_stage2_accumulation", "epoch_stage3"), -1),
    **dict.fromkeys(("num_workers", "warmup_epochs", "seed"), -1),
    **dict.fromkeys(("n_splits", "restart_epochs"), 1),
}
NUMBERS_OUT_OF_RANGE = {
    **dict.fromkeys(("lr", "lr_stage2", "lr_stage3"), (0.0, -1.0)),
    **dict.fromkeys(("weight_decay", "presence_weight", "clip_grad_norm"), (-0.1,)),
    **dict.fromkeys(("ema", "momentum"), (-0.1, 1.0, 1.5)),
}
OUT_OF_RANGE = [
    *INTEGERS_BELOW_RANGE.items(),
    *((name, 10**30) for name in INTEGERS_BELOW_RANGE),
    *((name, value) for name, values in NUMBERS_OUT_OF_RANGE.items() for value in values),
    *((name, float(text)) for name in NUMBERS_OUT_OF_RANGE for text in ("nan", "inf")),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_named(name, value, tmp_path, capsys):
    """As a flag, in a recipe and in a saved run."""
    assert f'"{name}"' in refused(capsys, f"--{name}={value}")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({name: value}))
    assert f'"{name}"' in refused(capsys, "--config", path)
    with pytest.raises(InputError, match=f'cannot be read as the settings of a run: .*"{name}"'):
        load_config(path)


def test_every_number_has_a_range():
    free = {"folds", "devices", "positive_share", "positive_share_stage2"}
    numbers = {name for name, value in OTHER.items() if type(value) in (int, float)} - free
    assert numbers == INTEGERS_BELOW_RANGE.keys() | NUMBERS_OUT_OF_RANGE.keys()


@pytest.mark.parametrize("settings", [{"resume": True}, {"mode": "train_stage2"}])
def test_continuing_a_run_needs_its_name(settings):
    with pytest.raises(InputError, match="needs --run_name"):
        check_settings(Config(**settings))


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "a\nb", " a"])
def test_run_name_and_model_type_are_each_the_name_of_one_folder(name):
    with pytest.raises(InputError, match=r"--run_name .* plain folder name"):
        check_settings(Config(run_name=name))
    with pytest.raises(InputError, match=r"--model_type .* plain folder name"):
        check_settings(Config(model_type=name))


@pytest.mark.parametrize(
    "name", ["model_type", "model_path", "dataset_root", "cache_dir", "groups", "exclude", "folds"]
)
def test_a_name_that_is_no_text_is_refused(name):
    """Latin-1 bytes, which Python keeps as surrogates, cannot be read from config.yaml."""
    settings: dict[str, Any] = {name: "/s\udcf6r"}
    with pytest.raises(InputError, match=rf"^--{name} '/s\\udcf6r': has bytes that are no UTF-8"):
        check_settings(Config(**settings))


def test_a_zero_byte_in_a_name_is_refused():
    """Only a YAML file can hold one."""
    with pytest.raises(InputError, match=r"--cache_dir .*has bytes that are no UTF-8 text"):
        check_settings(Config(cache_dir="a\0b"))


def test_each_stage_has_its_own_settings():
    settings = Config(**{name: OTHER[name] for name in OTHER if name.endswith(("1", "2"))})
    first, second = build_stages(settings, 0.5)
    assert (first.number, first.image_size, first.batch_size, first.epochs) == (1, 64, 3, 61)
    assert (second.number, second.image_size, second.batch_size, second.epochs) == (2, 96, 5, 21)
    assert (first.lr, second.lr) == (0.5, 3e-05)


def test_one_stage_is_the_first_of_two():
    assert build_stages(Config(two_stage=False), 0.1) == build_stages(Config(), 0.1)[:1]


def test_the_encoder_is_frozen_in_stage_1_only():
    assert [stage.freeze_epochs for stage in build_stages(Config(epoch_stage1_freeze=4), 1.0)] == [
        4,
        0,
    ]


def test_gradients_are_accumulated_in_the_last_epochs_of_stage_2_only():
    settings = Config(epoch_stage2=6, epoch_stage2_accumulation=2, accumulation_steps=10)
    first, second = build_stages(settings, 1.0)
    assert [first.batches_per_step(epoch) for epoch in range(first.epochs)] == [1] * 60
    assert [second.batches_per_step(epoch) for epoch in range(6)] == [1, 1, 1, 1, 10, 10]
    without = build_stages(Config(epoch_stage2=2, epoch_stage2_accumulation=0), 1.0)[1]
    assert [without.batches_per_step(epoch) for epoch in range(2)] == [1, 1]


def test_the_last_stage_predicts_masks_and_the_last_one_on_all_images_is_the_gate():
    for settings, mask, gate in (
        ({"two_stage": False}, 1, 1),
        ({}, 2, 2),
        ({"epoch_stage3": 1}, 3, 2),
    ):
        config = Config(**settings)
        assert (mask_stage(config).number, gate_stage(config).number) == (mask, gate)


def docstrings():
    """Return the docstring under each field in the source."""
    tree = ast.parse(inspect.getsource(settings_module))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config").body
    pairs = pairwise(body)
    return {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
    }


def test_every_setting_explains_itself_in_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        read("--help")
    assert stopped.value.code == 0
    help_text = re.sub(r"\s+", " ", capsys.readouterr().out)
    explained = docstrings()
    assert explained.keys() == OTHER.keys()
    for name, text in explained.items():
        assert f"--{name} " in help_text
        assert text.rstrip(".") in help_text, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch_stage1_freeze": 61}, "--epoch_stage1_freeze 61: is more than --epoch_stage1 60"),
        (
            {"epoch_stage2_accumulation": 21},
            "--epoch_stage2_accumulation 21: is more than --epoch_stage2 20",
        ),
        ({"augmentation_flag": False, "augmentation": "winner"}, "--augmentation_flag false"),
        ({"two_stage": False, "loss_stage2": "bce"}, "no stage 2 with --two_stage false"),
        (
            {"two_stage": False, "mode": "train_stage2", "run_name": "r"},
            "--mode train_stage2: there is no stage 2 with --two_stage false",
        ),
        ({"two_stage": False, "positive_share_stage2": 0.5}, "no stage 2 with --two_stage false"),
        ({"two_stage": False, "schedule_stage2": "cosine"}, "no stage 2 with --two_stage false"),
        ({"two_stage": False, "epoch_stage3": 2}, "which --two_stage false leaves out"),
        ({"loss_stage3": "bce"}, "there is no stage 3; give --epoch_stage3"),
        ({"schedule": "restarts"}, "needs --restart_epochs"),
        ({"schedule_stage2": "restarts"}, "needs --restart_epochs"),
        ({"restart_epochs": 3}, "no stage has --schedule restarts"),
        ({"schedule": "linear"}, "needs --decay_epochs, the epochs over which the rate falls"),
        ({"schedule_stage2": "linear"}, "needs --decay_epochs"),
        ({"decay_epochs": 3}, "--decay_epochs 3: no stage has --schedule linear"),
        (
            {"schedule": "linear", "decay_epochs": 21},
            "--decay_epochs 21: is more than the 20 epochs of stage 2",
        ),
        (
            {"schedule_stage2": "linear", "decay_epochs": 19, "warmup_epochs": 2},
            "--decay_epochs 19: is more than the 18 epochs of stage 2 after the warm-up",
        ),
        ({"schedule": "one_cycle", "warmup_epochs": 1}, "one_cycle, the schedule of stage 1"),
        ({"warmup_epochs": 20}, "leaves none of the 20 epochs of stage 2"),
        ({"loss_stage2": "bce:3,cross"}, "--loss_stage2 bce:3,cross: there is no term 'cross'"),
        ({"positive_share": "0.8:x"}, "--positive_share 0.8:x: give a share"),
        ({"positive_share": 60.5}, "YAML reads 1:0.5 as the number 60.5"),
        ({"init_from": "lungs", "pretrained": True}, "lungs and --pretrained true contradict"),
        (
            {"init_from": "lungs", "pretrained": False, "encoder_weights": "a.pth"},
            "--init_from lungs and --encoder_weights a.pth contradict",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message, tmp_path):
    """From any source."""
    path = tmp_path / "config.yaml"
    Config(**settings).save(path)
    for check in (
        lambda: check_settings(Config(**settings)),
        lambda: read(*as_flags(settings)),
        lambda: read("--config", path),
        lambda: load_config(path),
    ):
        with pytest.raises(InputError) as error:
            check()
        assert message in str(error.value)


RECIPES = Path(__file__).parents[3] / "recipes"
UNUSED: list[tuple[str, dict[str, Any], str]] = [
    ("image_size_stage2", {"two_stage": False}, "two_stage is false"),
    ("cases", {"pictures": False}, "pictures is false"),
    ("batch_size_stage2", {"two_stage": False}, "two_stage is false"),
    ("epoch_stage2", {"two_stage": False}, "two_stage is false"),
    ("lr_stage2", {"two_stage": False}, "two_stage is false"),
    ("epoch_stage2_accumulation", {"two_stage": False}, "two_stage is false"),
    ("accumulation_steps", {"two_stage": False}, "two_stage is false"),
    ("accumulation_steps", {"epoch_stage2_accumulation": 0}, "epoch_stage2_accumulation is 0"),
    ("epoch_stage2_accumulation", {"accumulation_steps": 1}, "accumulation_steps is 1"),
    ("lr_stage3", {}, "epoch_stage3 is 0"),
    ("momentum", {"optimizer": "adam"}, "optimizer is adam"),
    ("momentum", {"optimizer": "adamw"}, "optimizer is adamw"),
    ("cache_dir", {"cache": False}, "cache is false"),
    ("t", {"model_type": "AttU_Net"}, "AttU_Net is not recurrent"),
    ("pretrained", {"encoder_weights": "a.pth"}, "encoder_weights is a.pth"),
    ("augmentation", {"augmentation_flag": False}, "augmentation_flag is false"),
    ("augmentation_flag", {"augmentation": "none"}, "augmentation is none"),
    ("augment_at", {"augmentation": "none"}, "images are not augmented"),
    ("augment_at", {"augmentation_flag": False}, "images are not augmented"),
    ("batch_size_stage1", {"mode": "train_stage2"}, "mode is train_stage2, which skips stage 1"),
    (
        "folds",
        {"mode": "choose_threshold"},
        "mode is choose_threshold, which uses every finished fold",
    ),
]
"""A setting, others with which it has no effect, and why."""


def what_stages_do(config):
    """What the stages of a run are but for fields that nothing reads."""
    return [
        (
            replace(stage, accumulation_epochs=0, accumulation_steps=1),
            [stage.batches_per_step(epoch) for epoch in range(stage.epochs)],
        )
        for stage in build_stages(config)
    ]


@pytest.mark.parametrize(("name", "others", "reason"), UNUSED)
def test_a_given_setting_without_effect_is_named_with_the_reason(name, others, reason):
    accepted = OTHER | {"augmentation": "original", "augmentation_flag": True}
    config = replace(Config(), **(others | {name: accepted[name]}))
    line = describe_unused(config, frozenset({name, *others}))
    assert line == f"no effect: --{name} ({reason})"
    assert describe_unused(config, frozenset(others)) is None
    if name != "batch_size_stage1":  # stage 1 is not trained
        assert what_stages_do(config) == what_stages_do(replace(Config(), **others))


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_that_changes_a_stage_is_not_named(name):
    """With all others as they are, and with those that it needs."""
    needed: dict[str, dict[str, Any]] = {
        "lr_stage3": {"epoch_stage3": 2},
        "restart_epochs": {"schedule": "restarts"},
        "decay_epochs": {"schedule": "linear"},
    }
    before = replace(Config(), **needed.get(name, {}))
    after = replace(before, **{name: OTHER[name]})
    if name == "schedule":
        after = replace(after, restart_epochs=5)
    line = describe_unused(after, frozenset({name}))
    if what_stages_do(before) != what_stages_do(after):
        assert line is None
    assert (line is not None) is (name in {"momentum", "t"})


def test_several_settings_without_effect_are_named_in_one_line():
    config = Config(two_stage=False, momentum=0.5, lr_stage2=1e-3, cache_dir="/fast", seed=1)
    assert describe_unused(config, frozenset({"momentum", "lr_stage2", "cache_dir", "seed"})) == (
        "no effect: --lr_stage2 (two_stage is false), --momentum (optimizer is adam)"
    )


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"restart_epochs": 59}, [2]),
        ({"restart_epochs": 60}, [1, 2]),
        ({"restart_epochs": 19}, []),
        ({"restart_epochs": 18, "warmup_epochs": 2}, [2]),
        ({"restart_epochs": 100, "two_stage": False}, [1]),
    ],
)
def test_restarts_that_never_come_are_named_by_stage(settings, stages):
    config = Config(schedule="restarts", **settings)
    line = describe_unused(config, frozenset({"restart_epochs"}))
    names = " and ".join(map(str, stages))
    reason = f"no restart in stage {names}, which has no more epochs"
    assert line == (f"no effect: --restart_epochs ({reason})" if stages else None)


def test_the_networks_that_t_is_for_are_the_recurrent_ones():
    assert set(RECURRENT) == {name for name, variant in VARIANTS.items() if variant.recurrent}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_no_recipe_has_a_setting_without_effect(path):
    assert describe_unused(*read("--config", path)) is None


def test_stages_inherit_settings_from_the_previous_stage():
    plain = Config(loss="focal", positive_share=0.5, schedule="one_cycle", epoch_stage3=4)
    assert [s.loss for s in build_stages(plain, 1.0)] == ["focal"] * 3
    assert [s.schedule for s in build_stages(plain, 1.0)] == ["one_cycle"] * 3
    assert [s.positive_share for s in build_stages(plain, 1.0)] == [(0.5, 0.5), (0.5, 0.5), None]
    own = Config(
        loss_stage2="dice",
        loss_stage3="lovasz",
        positive_share_stage2="0.6:0.4",
        schedule_stage2="one_cycle",
        epoch_stage3=4,
        lr_stage3=2e-6,
        image_size_stage2=768,
        batch_size_stage2=6,
    )
    first, second, third = build_stages(own, 1.0)
    assert (first.loss, second.loss, third.loss) == ("bce", "dice", "lovasz")
    assert (first.schedule, second.schedule, third.schedule) == ("cosine", "one_cycle", "one_cycle")
    assert (first.positive_share, second.positive_share) == (None, (0.6, 0.4))
    assert [s.positives_only for s in build_stages(own, 1.0)] == [False, False, True]
    assert (third.number, third.epochs, third.lr) == (3, 4, 2e-6)
    assert (third.image_size, third.batch_size, third.accumulation_epochs) == (768, 6, 0)
    assert len(build_stages(Config(), 1.0)) == 2
    assert len(build_stages(Config(two_stage=False), 1.0)) == 1


@pytest.mark.parametrize("name", ["loss", "loss_stage2", "loss_stage3"])
def test_lovasz_is_refused_for_soft_masks(name):
    settings: dict[str, Any] = {name: "bce,lovasz", "epoch_stage3": 1}
    check_settings(replace(Config(), **settings, mask_resize="area"))
    with pytest.raises(InputError, match=f"^--{name} bce,lovasz: .* --mask_resize soft; use area$"):
        check_settings(replace(Config(), **settings, mask_resize="soft"))


@pytest.mark.parametrize("text", ["", "flip", "hflip,hflip", "none,hflip", "scales,hflip"])
def test_an_unknown_test_time_augmentation_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        read("--tta", text)
    assert "hflip,scales" in capsys.readouterr().err
    with pytest.raises(
        InputError, match=r"^threshold\.json: tta .* is none of none; hflip; scales"
    ):
        parse_tta(text, "threshold.json")


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("scales", [False, True])
def test_a_test_time_augmentation_is_a_list_of_its_parts(hflip, scales):
    text = ",".join(["hflip"] * hflip + ["scales"] * scales) or "none"
    assert parse_tta(text) == (hflip, scales)
    assert read("--tta", text)[0].tta == text
