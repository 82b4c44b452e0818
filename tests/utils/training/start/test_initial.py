"""--init_from: which checkpoint a fold starts from, and what is refused."""

import numpy as np
import pytest
import torch

from datasets.folds import get_fold
from tests.helpers.starts import folds_of, write_trained
from tests.helpers.tiny import TinyNet
from utils.config.layout import find_starts
from utils.config.normalisation import IMAGENET, Normalisation
from utils.config.settings import Config
from utils.errors import InputError
from utils.training.start.initial import check_start, find_start_leak, load_start, set_normalisation

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IDS = [f"image{i:02d}" for i in range(23)]


@pytest.mark.parametrize(
    ("settings", "stage"), [({"two_stage": False}, 1), ({}, 2), ({"epoch_stage3": 1}, 3)]
)
def test_a_fold_starts_from_the_last_stage_of_the_same_fold(settings, stage, tmp_path):
    run = tmp_path / "net" / "lungs"
    write_trained(run, folds_of(IDS, 3), **settings)
    expected = {n: run / f"fold{n}" / f"stage{stage}_best.pth" for n in (0, 2)}
    assert find_starts(str(run), [0, 2]) == expected
    assert find_starts(str(expected[2]), [0, 1]) == dict.fromkeys([0, 1], expected[2])


def test_folds_that_have_begun_need_no_network(tmp_path):
    assert find_starts(str(tmp_path / "removed"), []) == {}
    assert find_starts(None, [0, 1]) == {}


@pytest.mark.parametrize(
    ("remove", "reason"),
    [
        ("config.yaml", "is neither a checkpoint nor the folder of a run"),
        ("fold1/stage2_best.pth", "fold 1 has no network to start from, as .*stage2_best.pth"),
    ],
)
def test_what_is_no_run_or_lacks_a_fold_is_refused(remove, reason, tmp_path):
    run = tmp_path / "net" / "lungs"
    write_trained(run, folds_of(IDS, 3))
    (run / remove).unlink()
    with pytest.raises(InputError, match=f"--init_from {run}: {reason}"):
        find_starts(str(run), [0, 1])


@pytest.mark.parametrize("seed", range(12))
def test_a_run_is_refused_for_a_fold_that_validates_on_its_training_images(seed, tmp_path):
    """Compared image by image, over runs that share all, some or no images and folds."""
    rng = np.random.default_rng(seed)
    theirs = folds_of([*IDS[: rng.choice([0, 8, 23])], *(f"other{i}" for i in range(9))], 3)
    table = folds_of(IDS, 3)
    if rng.random() < 0.5:  # the same folds for the images that both have
        same = dict(zip(theirs.ImageId, theirs.fold, strict=True))
        table["fold"] = [same.get(name, fold) for name, fold in zip(IDS, table.fold, strict=True)]
    run = tmp_path / "net" / "lungs"
    write_trained(run, theirs)
    trained = {n: {*theirs.loc[theirs.fold != n, "ImageId"]} for n in range(3)}
    for number in range(3):
        shared = sum(name in trained[number] for name in table.loc[table.fold == number, "ImageId"])
        starts = find_starts(str(run), [number])
        if not shared:
            assert find_start_leak(str(run), starts, table) is None
            continue
        with pytest.raises(InputError) as error:
            find_start_leak(str(run), starts, table)
        assert f"fold {number} cannot start from fold {number} of that run" in str(error.value)
        assert f"{shared} of fold {number}. Use the folds of that run" in str(error.value)
        assert f"or name one checkpoint, such as {starts[number]}" in str(error.value)


def test_one_checkpoint_is_accepted_and_its_images_counted(tmp_path):
    run, table = tmp_path / "net" / "lungs", folds_of(IDS, 4)
    write_trained(run, table)
    path = run / "fold1" / "stage2_best.pth"
    leak = find_start_leak(str(path), find_starts(str(path), [0]), table)
    assert leak is not None
    assert leak["init_from"] == str(path)
    held_out = {str(n): len(get_fold(table, n).valid) for n in range(4)}
    assert leak["images"] == held_out | {"1": 0}
    elsewhere = folds_of([f"other{i}" for i in range(9)], 3)
    assert find_start_leak(str(path), find_starts(str(path), [0]), elsewhere) is None


def check(tmp_path, trained, new, **settings):
    """Check a checkpoint of `trained` as the start of a network."""
    write_trained(tmp_path / "net" / "lungs", folds_of(IDS, 2), trained)
    path = tmp_path / "net" / "lungs" / "fold0" / "stage2_best.pth"
    check_start(new, path, Config(model_type="net", **settings))


def test_the_weights_that_were_validated_are_loaded(tmp_path):
    """With a moving average, not those that it is the average of."""
    trained = TinyNet()
    path = tmp_path / "net" / "lungs" / "fold0" / "stage2_best.pth"
    write_trained(tmp_path / "net" / "lungs", folds_of(IDS, 2), trained, ema=0.9)
    content = torch.load(path)
    torch.save(content | {"live": {"state_dict": TinyNet().state_dict(), "steps": 5}}, path)
    network = TinyNet()
    assert load_start(network, path, Config(model_type="net", ema=0.99))["epoch"] == 2
    for key, value in trained.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("saved", "settings", "reason"),
    [
        ({}, {"model_type": "linknet"}, "model_type net -> linknet. Give --model_type net,"),
        ({"presence_weight": 0.5}, {}, "presence_weight 0.5 -> 0.0. Give --presence_weight 0.5,"),
    ],
)
def test_other_settings_of_the_network_are_refused_by_name(saved, settings, reason, tmp_path):
    write_trained(tmp_path / "net" / "lungs", folds_of(IDS, 2), TinyNet(), **saved)
    path = tmp_path / "net" / "lungs" / "fold0" / "stage2_best.pth"
    with pytest.raises(InputError, match=f"--init_from {path}: .*{reason}"):
        check_start(TinyNet(), path, Config(**({"model_type": "net"} | settings)))


@pytest.mark.parametrize("model_type", ["R2U_Net", "AttU_Net"])
def test_recurrent_steps_count_only_for_recurrent_networks(model_type, tmp_path):
    write_trained(tmp_path / model_type / "lungs", folds_of(IDS, 2), TinyNet(), t=2)
    path = tmp_path / model_type / "lungs" / "fold0" / "stage2_best.pth"
    config = Config(model_type=model_type, t=3)
    if model_type == "AttU_Net":
        load_start(TinyNet(), path, config)
        return
    with pytest.raises(InputError, match=r"t 2 -> 3\. Give --t 2,"):
        load_start(TinyNet(), path, config)


def test_a_new_presence_head_and_other_inputs_are_said(tmp_path, capsys):
    class WithHead(TinyNet):
        def __init__(self):
            super().__init__()
            self.presence_head = torch.nn.Linear(4, 1)

    check(tmp_path, TinyNet(), WithHead(), presence_weight=0.1, clahe=False)
    text = capsys.readouterr().out
    assert text.count("has no presence head: the head starts from scratch") == 1
    assert text.count("was trained with --clahe true, and this run uses false") == 1


@pytest.mark.parametrize("source", ["fold0/stage1_best.pth", "fold1/stage2_best.pth"])
def test_a_checkpoint_in_the_place_of_another_is_refused(source, tmp_path):
    run = tmp_path / "net" / "lungs"
    write_trained(run, folds_of(IDS, 2), TinyNet())
    path = run / "fold0" / "stage2_best.pth"
    path.write_bytes((run / source).read_bytes())
    with pytest.raises(InputError, match=f"{path} holds .* where fold 0, stage 2 belongs"):
        check_start(TinyNet(), path, Config(model_type="net"))


@pytest.mark.parametrize("content", [{"a": torch.ones(1)}, {"fold": 0, "config": {}}])
def test_weights_of_other_origin_are_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"is no checkpoint of this repository\..*models\.adopt"):
        load_start(TinyNet(), path, Config())


@pytest.mark.parametrize("wanted", [IMAGENET, HALF], ids=["ImageNet", "other"])
@pytest.mark.parametrize("given", [None, "0.3"])
def test_what_a_file_of_weights_alone_wants_is_assumed_aloud(
    wanted, given, tmp_path, capsys, monkeypatch
):
    """Also if it is ImageNet's; what the settings say is neither doubted nor changed."""
    monkeypatch.setattr("utils.training.start.initial.wanted_by", lambda _: wanted)
    path = tmp_path / "weights.pth"
    torch.save(TinyNet().encoder.state_dict(), path)
    config = Config(encoder_weights=str(path), input_mean=given, input_std=given)
    found = set_normalisation(config, {})
    text = capsys.readouterr().out
    if given:
        assert (found, text) == (config, "")
        return
    assert found.normalisation == wanted
    line = f"{path} does not say how its images were normalised; assumed: {wanted}; give "
    assert text.startswith(line)
    assert text.count("\n") == 1
