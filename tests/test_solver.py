"""Solver and FreezeSolver on a tiny network: what a stage does, epoch by epoch."""

import errno
import math
import time
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import nn
from torch.nn import functional as F

import solver as solver_module
from datasets.formats.images import read_image
from datasets.formats.masks import read_mask
from datasets.preprocessing import preprocess, resize_mask
from datasets.sampling import EpochBatches, derive_seed
from models.build import build_model
from models.interface import normalise
from models.unused import unused_to_buffers
from solver import Solver
from solver_freeze import FreezeSolver
from tests.helpers.tiny import TinyNet, config, fold_and_source, write_dataset
from utils.config.stages import build_stages
from utils.config.tta import TTA
from utils.errors import InputError
from utils.inference import ensemble
from utils.postprocessing.histograms import Histograms, load_histograms
from utils.training import failures, logger
from utils.training.checkpoints import FoldCheckpoints
from utils.training.logger import EpochTimes, FoldLog


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: TinyNet())
    monkeypatch.setattr(ensemble, "build_model", lambda *a, **k: solver_module.build_model(*a, **k))


def make(root, folder, kind=FreezeSolver, lr=1e-2, **changes):
    settings = config(root, **changes)
    fold, source = fold_and_source(root)
    folder.mkdir(exist_ok=True)
    fabric = Fabric(accelerator="cpu", devices=1)
    return kind(fabric, settings, build_stages(settings, lr), fold, source, folder, prior=0.1)


def checkpoints(folder):
    return {path.stem: torch.load(path) for path in sorted(folder.glob("stage*.pth"))}


def assert_same(a, b):
    """Compare nested dicts and lists of tensors and plain values, bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b or (a != a and b != b)


def scalars(folder, tag):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def wait_for_next_second():
    """Wait, as TensorBoard sorts event files of the same second by their number as text."""
    time.sleep(1.01 - time.time() % 1)


def test_each_stage_trains_and_validates_at_its_own_size(root, tmp_path, monkeypatch):
    seen = []

    class Watched(TinyNet):
        def forward(self, x):
            seen.append((self.training, x.shape[-1]))
            return super().forward(x)

    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: Watched())
    make(root, tmp_path).fit()
    sizes = [size for training, size in seen if not training]
    half = len([size for size in sizes if size == 32])
    assert sizes[:half] == [32] * half
    assert set(sizes[half:]) == {64}
    assert {size for training, size in seen if training} == {32, 64}


def test_training_and_validation_use_the_normalisation_of_the_run(root, tmp_path, monkeypatch):
    """Values from 0 to 1 stay as they are with a mean of 0 and a deviation of 1."""
    seen = []

    class Watched(TinyNet):
        def forward(self, x):
            seen.append((self.training, x.min().item(), x.max().item()))
            return super().forward(x)

    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: Watched())
    settings = {"two_stage": False, "epoch_stage1_freeze": 0, "augmentation_flag": False}
    make(root, tmp_path, input_mean="0", input_std="1", **settings).fit()
    assert {training for training, _, _ in seen} == {True, False}
    assert all(0 <= low < high <= 1 for _, low, high in seen)
    assert checkpoints(tmp_path)["stage1_best"]["config"]["input_std"] == "1"


def test_each_stage_has_its_own_best_epoch(root, tmp_path, monkeypatch):
    """Even if no epoch of stage 2 reaches the Dice of stage 1."""
    real_score = solver_module.score
    calls: list[None] = []

    def declining_score(histograms, rule):
        calls.append(None)
        return replace(real_score(histograms, rule), dice=1 / len(calls))

    monkeypatch.setattr(solver_module, "score", declining_score)
    make(root, tmp_path).fit()
    found = checkpoints(tmp_path)
    assert found["stage1_best"]["best"]["dice"] == 1.0
    assert found["stage2_best"]["best"]["dice"] == pytest.approx(1 / 3)
    assert found["stage2_best"]["epoch"] == 0


@pytest.mark.parametrize(("best_by", "best"), [("dice", 2), ("loss", 0), ("last", 4)])
def test_the_best_epoch_has_the_highest_dice_then_the_lowest_loss_then_comes_first(
    root, tmp_path, monkeypatch, best_by, best
):
    """Or, depending on `best_by`, just the lowest loss, or is the last one."""
    dice = iter([0.5, 0.7, 0.7, 0.7, 0.6])
    losses = iter([0.1, 0.3, 0.2, 0.2, 0.3])
    real_score, real_validate = solver_module.score, solver_module.validate
    monkeypatch.setattr(
        solver_module, "score", lambda *a: replace(real_score(*a), dice=next(dice, 0.0))
    )
    monkeypatch.setattr(
        solver_module, "validate", lambda *a: replace(real_validate(*a), loss=next(losses, 0.0))
    )
    make(root, tmp_path, two_stage=False, epoch_stage1=5, best_by=best_by).fit()
    assert checkpoints(tmp_path)["stage1_best"]["epoch"] == best


def test_stage_two_starts_from_stage_ones_best_weights_with_a_fresh_optimizer(root, tmp_path):
    class Recorded(FreezeSolver):
        def begin_stage(self, stage, first_epoch):
            super().begin_stage(stage, first_epoch)
            if stage.number == 2:
                self.start = {k: v.clone() for k, v in self.module.state_dict().items()}
                self.fresh = not self.state.optimizer.state_dict()["state"] and not self.kept

    solver = make(root, tmp_path, Recorded)
    solver.fit()
    assert_same(solver.start, dict(checkpoints(tmp_path)["stage1_best"]["state_dict"]))
    assert solver.fresh


def test_stage_one_starts_from_a_whole_trained_network(root, tmp_path):
    """From the average of its weights; the encoder stays as it is for the frozen epoch."""
    trained = make(root, tmp_path / "trained", epoch_stage1_freeze=0, ema=0.9)
    trained.fit()
    path = tmp_path / "trained" / "stage2_best.pth"
    start = dict(torch.load(path)["state_dict"])
    solver = make(root, tmp_path / "tuned", ema=0.99, init_from=str(path))
    solver.init_from = path
    begun, end_epoch, begin_stage = [], solver.end_epoch, solver.begin_stage

    def begin(*args):
        begin_stage(*args)
        begun.append({k: v.clone() for k, v in solver.module.state_dict().items()})
        average = dict(solver.state.eval_module.state_dict())
        assert_same(begun[-1], {k: v.clone() for k, v in average.items()})
        assert not solver.state.optimizer.state_dict()["state"]

    def end(stage, epoch, *args):
        if (stage.number, epoch) == (1, 0):
            encoder = solver.module.encoder.state_dict()
            assert_same({f"encoder.{k}": v for k, v in encoder.items()}, encoder_of(start))
            assert not torch.equal(solver.module.head.weight, start["head.weight"])
        end_epoch(stage, epoch, *args)

    solver.begin_stage, solver.end_epoch = begin, end
    solver.fit()
    assert_same(begun[0], start)
    assert_same(begun[1], dict(checkpoints(tmp_path / "tuned")["stage1_best"]["state_dict"]))
    log = (tmp_path / "tuned" / "log.txt").read_text()
    assert "from run unet_resnet34/None, fold 0, stage 2 (epoch " in log
    assert "from the best weights of stage 1 (epoch " in log


def encoder_of(state):
    return {k: v for k, v in state.items() if k.startswith("encoder")}


def test_a_frozen_encoder_and_its_norm_statistics_do_not_change(root, tmp_path):
    solver = make(root, tmp_path, two_stage=False, epoch_stage1=3, epoch_stage1_freeze=2)
    states = []
    real_end_epoch = solver.end_epoch

    def end_epoch(*args):
        states.append({k: v.clone() for k, v in solver.module.state_dict().items()})
        real_end_epoch(*args)

    solver.end_epoch = end_epoch
    solver.fit()
    encoder = [{k: v for k, v in s.items() if k.startswith("encoder")} for s in states]
    assert_same(encoder[0], encoder[1])
    assert not torch.equal(states[0]["head.weight"], states[1]["head.weight"])
    for key in ("encoder.0.weight", "encoder.1.weight", "encoder.1.running_mean"):
        assert not torch.equal(encoder[1][key], encoder[2][key]), key


def test_an_encoder_frozen_to_the_end_is_that_of_the_start(root, tmp_path):
    solver = make(root, tmp_path, two_stage=False, epoch_stage1=1, epoch_stage1_freeze=1)
    build, start = solver.build_module, {}

    def build_module(*args):
        result = build(*args)
        start.update({k: v.clone() for k, v in solver.module.encoder.state_dict().items()})
        return result

    solver.build_module = build_module
    solver.fit()
    assert_same(start, dict(solver.module.encoder.state_dict()))


def test_the_plain_solver_never_freezes(root, tmp_path):
    solver = make(root, tmp_path, Solver, two_stage=False, epoch_stage1=1)
    solver.fit()
    assert all(p.requires_grad for p in solver.module.parameters())
    assert solver.module.encoder[1].num_batches_tracked > 0


class SingleStage(Solver):
    """A solver that starts any stage directly, from a fixed network, in evaluation mode."""

    def start(self, stage):
        self.log = FoldLog(self.folder, self.stages)
        self.begin_stage(stage, first_epoch=0)

    def build_module(self, stage, first_epoch):
        torch.manual_seed(0)
        self.module = TinyNet()
        return {}

    def set_train_mode(self, model):
        model.eval()


def weights_after_an_epoch(root, folder, batch_size, steps):
    solver = make(
        root,
        folder,
        SingleStage,
        batch_size_stage2=batch_size,
        accumulation_steps=steps,
        augmentation_flag=False,
        optimizer="sgd",
        momentum=0.0,
        lr_stage2=1.0,
    )
    stage = solver.stages[1]
    solver.start(stage)
    updates, step = [], solver.state.optimizer.step

    def counted(*args, **kwargs):
        updates.append(1)
        return step(*args, **kwargs)

    solver.state.optimizer.step = counted
    last = stage.epochs - 1
    model = solver.begin_epoch(stage, last)
    solver.set_train_mode(model)
    solver.train(model, last, "an epoch", EpochTimes())
    return solver.module.state_dict(), len(updates)


def test_accumulation_equals_a_large_batch(root, tmp_path):
    """7 images: batches of 2, 2 and 3 in steps of two batches, compared with batches of 4 and 3."""
    small, updates = weights_after_an_epoch(root, tmp_path / "small", 2, 2)
    big, big_updates = weights_after_an_epoch(root, tmp_path / "big", 4, 1)
    assert updates == big_updates == 2
    for key in big:
        torch.testing.assert_close(small[key], big[key], rtol=0, atol=1e-6)


def test_an_incomplete_step_is_divided_by_its_true_size(root, tmp_path):
    """Steps of ten batches, with only three batches: one update, by the mean over all images."""
    solver_weights, updates = weights_after_an_epoch(root, tmp_path / "a", 2, 10)
    fold, source = fold_and_source(root)
    torch.manual_seed(0)
    net = TinyNet().eval()
    images = [preprocess(read_image(source.samples[i].image), 64, True) for i in fold.train]
    masks = [resize_mask(read_mask(source.samples[i].mask), 64) for i in fold.train]
    logits = net(normalise(torch.from_numpy(np.stack(images))[:, None]))
    truth = torch.from_numpy(np.stack(masks))[:, None].float()
    F.binary_cross_entropy_with_logits(logits, truth).backward()
    assert updates == 1
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - parameter.grad
        torch.testing.assert_close(solver_weights[name], expected, rtol=0, atol=1e-6)


def test_the_learning_rate_follows_a_cosine_in_every_stage(root, tmp_path):
    make(root, tmp_path, lr=0.5, lr_stage2=0.25, epoch_stage1=4, epoch_stage2=3).fit()
    cosine = [0.5 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)]
    cosine += [0.25 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(3)]
    steps, rates = zip(*scalars(tmp_path, "lr"), strict=True)
    assert steps == tuple(range(7))
    assert rates == pytest.approx(cosine, rel=1e-5)


def test_tensorboard_has_every_curve_and_the_overlays_once_per_epoch(root, tmp_path):
    make(root, tmp_path).fit()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    curves = {"loss/train", "loss/val", "dice/all", "dice/positive", "dice/empty_kept"}
    assert set(events.Tags()["scalars"]) == curves | {"lr", "images_per_second"}
    assert all(len(scalars(tmp_path, tag)) == 4 for tag in curves)
    assert [image.step for image in events.Images("overlay")] == [0, 1, 2, 3]


def test_the_curves_of_an_epoch_are_on_disk_before_its_checkpoint(root, tmp_path, monkeypatch):
    """As a run that is killed after a checkpoint goes on with the next epoch."""
    found = []
    save, write = FoldCheckpoints.save, RecordWriter.write

    def look_and_save(self, content, several):
        found.append([step for step, _ in scalars(tmp_path, "dice/all")])
        save(self, content, several)

    def write_slowly(self, data):
        time.sleep(0.02)
        write(self, data)

    monkeypatch.setattr(FoldCheckpoints, "save", look_and_save)
    monkeypatch.setattr(RecordWriter, "write", write_slowly)
    make(root, tmp_path, two_stage=False).fit()
    assert found == [[0], [0, 1]]


def test_out_of_fold_histograms_come_from_the_best_weights_of_stage_two(root, tmp_path):
    solver = make(root, tmp_path)
    solver.fit()
    fold, source = fold_and_source(root)
    net = TinyNet()
    net.load_state_dict(checkpoints(tmp_path)["stage2_best"]["state_dict"])
    images = [preprocess(read_image(source.samples[i].image), 64, True) for i in fold.valid]
    expected = {}
    for tta, flips in (("none", False), ("hflip", True)):
        solver.config = replace(solver.config, tta=tta)
        solver.write_out_of_fold()
        oof = load_histograms(tmp_path / "oof.npz")
        assert oof.ids.tolist() == fold.valid
        together = ensemble.Ensemble(solver.fabric, [net], TTA(hflip=flips))
        maps = together(torch.from_numpy(np.stack(images))[:, None]).probability
        full = F.interpolate(maps, (72, 60), mode="bilinear")[:, 0].numpy()
        levels = np.floor(255 * full).astype(int)
        expected[tta] = np.stack([np.bincount(each.ravel(), minlength=256) for each in levels])
        # The last bits of a network's output depend on the batch's shape.
        assert np.abs(np.cumsum(expected[tta] - oof.all, axis=1)).max() <= 20
        masks = [read_mask(source.samples[name].mask).astype(bool) for name in fold.valid]
        assert oof.mask.sum(axis=1).tolist() == [mask.sum() for mask in masks]
        assert (oof.all.sum(axis=1) == 72 * 60).all()
    assert np.abs(np.cumsum(expected["hflip"] - expected["none"], axis=1)).max() > 100


def test_dice_does_not_depend_on_the_batch_size(root, tmp_path):
    scores = []
    for size in (1, 3, 8):
        solver = make(root, tmp_path / str(size), SingleStage, batch_size_stage1=size)
        solver.start(solver.stages[0])
        solver.begin_epoch(solver.stages[0], 0)
        validation = solver.validate()
        scores.append((validation.histograms.dice().mean(axis=0), validation.loss))
    for dice, loss in scores[1:]:
        np.testing.assert_allclose(dice, scores[0][0], atol=2e-3)
        assert loss == pytest.approx(scores[0][1], abs=1e-6)


class Killed(Exception):
    pass


EVERYTHING = {
    "batch_size_stage1": 2,  # after a single step the average is the network itself
    "batch_size_stage2": 2,
    "loss": "bce:3,dice:1,focal:4,lovasz:0.1",
    "positive_share": "1.0:0.4",
    "epoch_stage3": 2,
    "schedule": "one_cycle",
    "optimizer": "adamw",
    "ema": 0.9,
    "keep_best": 2,
}
"""Settings that each add to the state that a resume must restore."""


def fit_until_killed(solver, epochs):
    """Train, and end without any cleanup after this many epochs over all stages."""
    end_epoch = solver.end_epoch
    done: list[None] = []

    def end_epoch_then_die(*args):
        end_epoch(*args)
        done.append(None)
        if len(done) == epochs:
            raise Killed

    solver.end_epoch = end_epoch_then_die
    with pytest.raises(Killed):
        solver.fit()


@pytest.mark.parametrize(
    ("epochs_before_the_kill", "changes"),
    [*((n, {}) for n in (1, 2, 3)), *((n, EVERYTHING) for n in (1, 3, 5))],
    ids=lambda value: str(value) if isinstance(value, int) else "everything" if value else "plain",
)
def test_a_resumed_fold_ends_with_identical_results(
    root, tmp_path, epochs_before_the_kill, changes
):
    make(root, tmp_path / "undisturbed", **changes).fit()
    fit_until_killed(make(root, tmp_path / "killed", **changes), epochs_before_the_kill)
    wait_for_next_second()
    make(root, tmp_path / "killed", **changes).fit()
    assert_same(checkpoints(tmp_path / "killed"), checkpoints(tmp_path / "undisturbed"))
    a, b = (load_histograms(tmp_path / name / "oof.npz") for name in ("undisturbed", "killed"))
    np.testing.assert_array_equal(a.all, b.all)
    for tag in ("loss/train", "loss/val", "lr", "dice/all"):
        assert_same(*(scalars(tmp_path / name, tag) for name in ("killed", "undisturbed")))


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_a_trained_fold_without_its_best_weights_is_told_what_to_do(root, tmp_path, content):
    """Also if its last stage is trained, and only the prediction remains."""
    last, best = tmp_path / "stage2_last.pth", tmp_path / "stage2_best.pth"
    solver = make(root, tmp_path)
    torch.save({"stage": 2, "epoch": solver.stages[-1].epochs - 1}, last)
    if content is not None:
        best.write_bytes(content)
    with pytest.raises(InputError, match=rf"stage2_last\.pth is intact \(epoch 2\): .* {best}"):
        solver.fit()


def test_an_epoch_without_validation_changes_nothing_but_the_best(root, tmp_path):
    """Also if it is the last before a kill, when no epoch of the stage has been validated yet."""
    changes = {"two_stage": False, "epoch_stage1": 3, "ema": 0.9}
    make(root, tmp_path / "every", **changes).fit()
    changes |= {"validate_every": 2}
    fit_until_killed(make(root, tmp_path / "killed", **changes), 1)
    found = checkpoints(tmp_path / "killed")
    assert found.keys() == {"stage1_last"}
    assert (found["stage1_last"]["best"], found["stage1_last"]["kept"]) == (None, [])
    wait_for_next_second()
    make(root, tmp_path / "killed", **changes).fit()
    killed, every = (checkpoints(tmp_path / name) for name in ("killed", "every"))
    for part in ("state_dict", "live", "optimizer", "scheduler"):
        assert_same(killed["stage1_last"][part], every["stage1_last"][part])
    assert killed["stage1_best"]["epoch"] in (1, 2)
    assert_same(
        scalars(tmp_path / "killed", "loss/train"), scalars(tmp_path / "every", "loss/train")
    )
    for tag in ("loss/val", "dice/all"):
        values = scalars(tmp_path / "every", tag)
        assert_same(scalars(tmp_path / "killed", tag), values[1:])
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert (log.count("not validated"), log.count("estimated end")) == (1, 1)


def test_the_line_of_an_epoch_counts_all_of_its_time(root, tmp_path, monkeypatch):
    """Also what belongs to no activity; the command to resume is put together for errors alone."""
    now = [0.0]
    clock = SimpleNamespace(**vars(time) | {"perf_counter": lambda: now[0]})
    monkeypatch.setattr(logger, "time", clock)

    def taking(seconds, function):
        def slow(*args):
            now[0] += seconds
            return function(*args)

        return slow

    def never(*_):
        raise AssertionError("put together although nothing went wrong")

    monkeypatch.setattr(failures, "resume_command", never)
    monkeypatch.setattr(solver_module, "EpochContext", taking(1, failures.EpochContext))
    monkeypatch.setattr(solver_module, "check_weights", taking(2, failures.check_weights))
    monkeypatch.setattr(logger, "peak_memory", taking(3, logger.peak_memory))
    solver = make(root, tmp_path, two_stage=False, validate_every=2)
    solver.begin_epoch = taking(4, solver.begin_epoch)
    solver.train = taking(10, solver.train)
    solver.fit()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    first, second = (line for line in lines if "|" in line)
    shares = "loading 0 %, training {} %, validating 0 %, writing 0 %, other {} %"
    assert f"| 20.0 s: {shares.format(50, 50)}" in first
    assert f"| 18.0 s: {shares.format(56, 44)}" in second


def test_useless_weights_are_not_saved_without_a_validation_either(root, tmp_path):
    solver = make(root, tmp_path, two_stage=False, epoch_stage1=2, validate_every=2)
    train = solver.train

    def train_badly(*args):
        result = train(*args)
        with torch.no_grad():
            solver.module.head.bias.fill_(math.nan)
        return result

    solver.train = train_badly
    with pytest.raises(InputError, match=r"stage 1, epoch 1: head\.bias is not finite"):
        solver.fit()
    assert not checkpoints(tmp_path)


def weights(folder):
    """Return all that is stored of each stage but its settings."""
    return {
        name: {key: value for key, value in content.items() if key != "config"}
        for name, content in checkpoints(folder).items()
    }


class WithDropout(TinyNet):
    def forward(self, x):
        return self.head(F.dropout(self.encoder(x), 0.5, self.training))


def test_dropout_is_the_same_with_any_workers_and_after_a_resume(root, tmp_path, monkeypatch):
    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: WithDropout())
    make(root, tmp_path / "undisturbed").fit()
    fit_until_killed(make(root, tmp_path / "killed", num_workers=1), 1)
    make(root, tmp_path / "killed", num_workers=1).fit()
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "undisturbed"))


NETWORKS = [
    ("U_Net", 0.0),
    ("unet_resnet34", 0.5),
    ("linknet", 0.0),
    ("deeplabv3plus", 0.5),
    ("smp:Unet:efficientnet-b0", 0.0),
    ("smp:Unet:tu-tf_efficientnet_lite0", 0.5),
    ("smp:Segformer:mit_b0", 0.0),
]
"""A network of each family and its presence weight; most draw random numbers when they train."""


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "presence_weight"), NETWORKS)
def test_every_family_is_the_same_with_any_workers_and_after_a_resume(
    root, tmp_path, monkeypatch, model_type, presence_weight
):
    monkeypatch.setattr(solver_module, "build_model", build_model)
    changes = {"model_type": model_type, "presence_weight": presence_weight, "two_stage": False}
    make(root, tmp_path / "undisturbed", **changes).fit()
    changes |= {"num_workers": 2}
    fit_until_killed(make(root, tmp_path / "killed", **changes), 1)
    make(root, tmp_path / "killed", **changes).fit()
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "undisturbed"))


def test_every_process_has_dropout_of_its_own(root, tmp_path):
    """Rank 0 has that of a single process."""
    solver = make(root, tmp_path, kind=Solver)
    batches = SimpleNamespace(set_epoch=lambda epoch: None)
    solver.data = SimpleNamespace(seed_parts=(5, 0, 1), batches=batches)
    drawn = []
    for rank in range(3):
        solver.fabric = SimpleNamespace(global_rank=rank, world_size=3)
        solver.model = TinyNet()
        solver.begin_epoch(solver.stages[0], 4)
        drawn.append(tuple(torch.rand(3).tolist()))
    assert len(set(drawn)) == 3
    torch.manual_seed(derive_seed(5, 0, 1, 4))
    assert drawn[0] == tuple(torch.rand(3).tolist())


@pytest.mark.parametrize(
    ("owner", "name", "text"),
    [
        (FoldCheckpoints, "remove_leftovers", ""),
        (FoldLog, "open", ""),
        (FoldLog, "line", "fold 0 stage 1"),
        (FoldLog, "line", "encoder frozen"),
        (FoldLog, "line", "stage 1 epoch 1/1"),
        (FoldCheckpoints, "save", ""),
        (Histograms, "save", ""),
    ],
)
def test_whatever_rank_0_cannot_write_ends_the_other_processes(
    root, tmp_path, monkeypatch, owner, name, text
):
    """Else they would wait for it in their next collective, for half an hour."""
    real, sent = getattr(owner, name), []

    def fail(self, *args, **kwargs):
        if text in str(args[:1]):
            raise OSError(errno.ENOSPC, "No space left on device", "a/file")
        return real(self, *args, **kwargs)

    def broadcast(decision, src=0):
        sent.append(decision)
        return decision

    monkeypatch.setattr(owner, name, fail)
    solver = make(root, tmp_path, epoch_stage1=1, two_stage=False)
    monkeypatch.setattr(solver.fabric, "broadcast", broadcast)
    with pytest.raises(InputError, match="a/file: No space left on device"):
        solver.fit()
    assert sent[-1] == []  # for which the other ranks raise ReportedByRankZero


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_trains_across_the_thaw(root, tmp_path, optimizer):
    """Also from a checkpoint whose encoder, frozen so far, has no state."""
    make(root, tmp_path / "undisturbed", optimizer=optimizer, two_stage=False).fit()
    fit_until_killed(make(root, tmp_path / "killed", optimizer=optimizer, two_stage=False), 1)
    path = tmp_path / "killed" / "stage1_last.pth"
    content = torch.load(path)
    encoder = [0, 1, 2, 3]
    state = content["optimizer"]["state"]
    for index in encoder:
        state.pop(index, None)
    assert len(state) == 2
    torch.save(content, path)
    make(root, tmp_path / "killed", optimizer=optimizer, two_stage=False).fit()
    one, other = (weights(tmp_path / name)["stage1_last"] for name in ("killed", "undisturbed"))
    assert_same(one, other)


def test_a_finished_fold_is_not_changed(root, tmp_path):
    make(root, tmp_path).fit()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make(root, tmp_path).fit()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_checkpoint_has_the_documented_content(root, tmp_path):
    make(root, tmp_path).fit()
    content = torch.load(tmp_path / "stage2_last.pth", weights_only=True)
    expected = {"state_dict", "model_type", "optimizer", "scheduler", "stage", "epoch", "fold"}
    assert content.keys() == expected | {"best", "kept", "config", "scaler", "live"}
    assert (content["stage"], content["epoch"], content["fold"]) == (2, 1, 0)
    assert content["state_dict"].keys() == TinyNet().state_dict().keys()
    assert type(content["best"]["dice"]) is float


def test_a_non_finite_loss_stops_training_and_keeps_the_checkpoint(root, tmp_path):
    solver = make(root, tmp_path, two_stage=False, epoch_stage1=3)
    begin = solver.begin_epoch

    def begin_epoch(stage, epoch):
        real = solver.loss_function
        if epoch == 1:
            solver.loss_function = lambda logits, mask: real(logits, mask) * float("nan")
        return begin(stage, epoch)

    solver.begin_epoch = begin_epoch
    with pytest.raises(InputError) as stopped:
        solver.fit()
    message = str(stopped.value)
    batches = EpochBatches(solver.fold.train, 4, (5, 0, 1))
    batches.set_epoch(1)
    ids = [solver.fold.train[i] for batch in batches for i, _ in batch]
    assert "fold 0, stage 1, epoch 2, batch 1: the loss is not finite" in message
    assert f"Images of that batch: {', '.join(ids[:4])}. Images of batches 1 to 2, since" in message
    assert f"check: {', '.join(ids)}. No checkpoint was overwritten" in message
    assert "lower learning rate (this stage: 0.01)" in message
    assert checkpoints(tmp_path)["stage1_last"]["epoch"] == 0


def test_non_finite_weights_are_not_saved_even_if_training_losses_are_finite(root, tmp_path):
    """The losses of an epoch do not show what its last step does to the weights."""
    solver = make(root, tmp_path, two_stage=False, epoch_stage1=3)
    real_train = solver.train

    def train(model, epoch, *args):
        trained = real_train(model, epoch, *args)
        if epoch == 1:
            with torch.no_grad():
                solver.module.head.weight.fill_(float("nan"))
        return trained

    solver.train = train
    with pytest.raises(InputError, match="epoch 2: the validation loss is not finite"):
        solver.fit()
    for which in ("last", "best"):
        content = checkpoints(tmp_path)[f"stage1_{which}"]
        assert content["epoch"] == 0
        assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_float16_loss_scale_is_restored_and_reset_with_each_stage(root, tmp_path, clip):
    """Its growth tracker counts the steps since the scale last changed."""

    def half(**changes):
        solver = make(root, tmp_path, clip_grad_norm=clip, **changes)
        plugin = MixedPrecision("16-mixed", "cpu")
        solver.fabric = Fabric(accelerator="cpu", devices=1, plugins=plugin)
        return solver

    solver = half()
    end_epoch = solver.end_epoch

    def end_epoch_then_die(*args):
        end_epoch(*args)
        raise Killed

    solver.end_epoch = end_epoch_then_die
    with pytest.raises(Killed):
        solver.fit()
    assert checkpoints(tmp_path)["stage1_last"]["scaler"]["_growth_tracker"] == 2
    half().fit()
    found = checkpoints(tmp_path)
    assert found["stage1_last"]["scaler"]["_growth_tracker"] == 4
    assert found["stage2_last"]["scaler"]["_growth_tracker"] == 3


def test_gradients_are_clipped_only_if_configured(root, tmp_path, monkeypatch):
    norms = []
    monkeypatch.setattr(Fabric, "clip_gradients", lambda *_, max_norm, **__: norms.append(max_norm))
    make(root, tmp_path / "no").fit()
    assert norms == []
    make(root, tmp_path / "yes", clip_grad_norm=0.5).fit()
    assert norms == [0.5] * 7  # 2 steps in each of 3 epochs, and one in the accumulating epoch


@pytest.mark.parametrize(
    ("native", "layout"), [(True, torch.channels_last), (False, torch.contiguous_format)]
)
def test_network_and_optimizer_use_the_fast_implementation(
    root, tmp_path, monkeypatch, native, layout
):
    """On a CPU, channels last is faster only with bfloat16 units."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    solver = make(root, tmp_path)
    begin, seen = solver.begin_epoch, []

    def begin_epoch(stage, epoch):
        seen.append(solver.module.head.weight.is_contiguous(memory_format=layout))
        seen.append(solver.state.optimizer.param_groups[0]["fused"])
        return begin(stage, epoch)

    solver.begin_epoch = begin_epoch
    solver.fit()
    assert seen == [True] * 8


@pytest.mark.slow
def test_a_compiled_network_trains_equally(root, tmp_path, monkeypatch):
    """Traced completely, but without code generation, which takes a minute."""
    quick = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", quick)
    changes = {"two_stage": False, "epoch_stage1": 2, "augmentation_flag": False}
    for name in ("plain", "compiled"):
        torch._dynamo.utils.counters.clear()
        make(root, tmp_path / name, compile=name == "compiled", **changes).fit()
        compiled = torch._dynamo.utils.counters["stats"]["calls_captured"] > 0
        assert compiled == (name == "compiled")
    one, other = (checkpoints(tmp_path / name)["stage1_last"] for name in ("plain", "compiled"))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert one["best"]["loss"] == pytest.approx(other["best"]["loss"], rel=1e-4)


def test_out_of_memory_is_reported_with_the_setting_and_the_next_command(
    root, tmp_path, monkeypatch
):
    class Large(TinyNet):
        def forward(self, x):
            if self.training and x.shape[-1] == 64:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().forward(x)

    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: Large())
    with pytest.raises(InputError) as stopped:
        make(root, tmp_path, run_name="mine").fit()
    message = str(stopped.value)
    assert "fold 0, stage 2, epoch 1: out of memory with 4 images of 64 pixels" in message
    assert "Resume with a smaller --batch_size_stage2" in message
    assert "--run_name mine --resume true" in message.splitlines()[-1]
    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: TinyNet())
    make(root, tmp_path, run_name="mine", batch_size_stage2=2).fit()
    assert checkpoints(tmp_path)["stage2_last"]["config"]["batch_size_stage2"] == 2


def test_every_network_is_built_with_the_recurrent_steps_of_the_run(root, tmp_path, monkeypatch):
    requested = []

    def build(*_, t, **__):
        requested.append(t)
        return TinyNet()

    monkeypatch.setattr(solver_module, "build_model", build)
    make(root, tmp_path, t=2, epoch_stage1=1, epoch_stage2=1).fit()
    assert requested == [2, 2, 2]


def test_thawing_does_not_affect_unused_parameters(root, tmp_path, monkeypatch):
    class WithClassifier(TinyNet):
        size_step = 1

        def __init__(self):
            super().__init__()
            self.encoder.classifier = torch.nn.Linear(4, 2)
            unused_to_buffers(self)

        def forward(self, x):
            return self.head(self.encoder[:3](x))

    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: WithClassifier())
    solver = make(root, tmp_path)
    solver.fit()
    assert "encoder thawed" in (tmp_path / "log.txt").read_text()
    names = {name for name, p in solver.module.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in TinyNet().named_parameters()}
    assert "encoder.classifier.weight" in solver.module.state_dict()


def test_stage_three_trains_on_positives_only_and_starts_from_the_best_of_stage_two(root, tmp_path):
    seen = []

    class Recorded(FreezeSolver):
        def begin_stage(self, stage, first_epoch):
            super().begin_stage(stage, first_epoch)
            start = {k: v.clone() for k, v in self.module.state_dict().items()}
            seen.append((stage.number, self.data.fold, start))

    solver = make(root, tmp_path, Recorded, epoch_stage3=2)
    solver.fit()
    numbers, folds, starts = zip(*seen, strict=True)
    assert numbers == (1, 2, 3)
    assert folds[:2] == (solver.fold, solver.fold)
    for ids, everything in (
        (folds[2].train, solver.fold.train),
        (folds[2].valid, solver.fold.valid),
    ):
        assert ids == [name for name in everything if name in solver.fold.positive]
        assert 0 < len(ids) < len(everything)
    found = checkpoints(tmp_path)
    assert_same(starts[2], dict(found["stage2_best"]["state_dict"]))
    assert found["stage3_last"]["epoch"] == 1
    assert found["stage3_best"]["best"]["dice"] == found["stage3_best"]["best"]["dice_positive"]
    assert [step for step, _ in scalars(tmp_path, "dice/positive")] == list(range(6))


def test_an_average_is_validated_saved_and_passed_to_the_next_stage(root, tmp_path, monkeypatch):
    solver = make(root, tmp_path, ema=0.9, epoch_stage1_freeze=0)
    validated, validate = [], solver_module.validate

    def watch(fabric, module, *args):
        validated.append({k: v.clone() for k, v in module.state_dict().items()})
        return validate(fabric, module, *args)

    monkeypatch.setattr(solver_module, "validate", watch)
    solver.fit()
    found = checkpoints(tmp_path)
    last = found["stage2_last"]
    assert_same(dict(last["state_dict"]), validated[3])
    assert not torch.equal(
        last["live"]["state_dict"]["head.weight"], last["state_dict"]["head.weight"]
    )
    assert last["live"]["steps"] == 3  # an epoch of two steps, and one of two batches in a step
    assert found["stage1_last"]["live"]["steps"] == 4


def test_the_average_is_updated_after_every_step(root, tmp_path):
    """Compared with a copy that is averaged by hand after each optimizer step."""
    solver = make(root, tmp_path, Solver, ema=0.9, two_stage=False)
    begin = solver.begin_stage
    by_hand: dict[str, torch.Tensor] = {}
    steps: list[None] = []

    def begin_stage(*args):
        begin(*args)
        end = solver.state.end_step

        def end_step():
            weights = {k: v.detach().clone() for k, v in solver.module.named_parameters()}
            n = len(steps)
            part = min(0.9, (1 + n) / (10 + n)) if n else 0.0
            for key, value in weights.items():
                by_hand[key] = part * by_hand.get(key, value) + (1 - part) * value
            steps.append(None)
            end()

        solver.state.end_step = end_step

    solver.begin_stage = begin_stage
    solver.fit()
    kept = checkpoints(tmp_path)["stage1_last"]["state_dict"]
    for key, value in by_hand.items():
        torch.testing.assert_close(kept[key], value, rtol=1e-5, atol=1e-6)


def test_a_share_of_positives_is_applied_to_the_training_batches(root, tmp_path):
    solver = make(root, tmp_path, positive_share="1.0:0.5", positive_share_stage2=0.8)
    trained, real_train = [], solver.train

    def train(model, epoch, *args):
        batches = solver.data.batches
        trained.append(batches.ids_of(0, len(batches)))
        return real_train(model, epoch, *args)

    solver.train = train
    solver.fit()
    positives = sorted(set(solver.fold.train) & solver.fold.positive)
    assert sorted(trained[0]) == positives
    others = [len(names) - len(positives) for names in trained]
    assert others == [0, min(3, len(positives)), 1, 1]
    assert all(set(positives) <= set(names) for names in trained)


def test_every_stage_uses_its_own_loss(root, tmp_path, monkeypatch):
    requested = []
    real = solver_module.build_loss

    def build(text, *args):
        requested.append(text)
        return real(text, *args)

    monkeypatch.setattr(solver_module, "build_loss", build)
    make(root, tmp_path, epoch_stage3=1, loss="bce,dice", loss_stage3="lovasz").fit()
    assert requested == ["bce,dice", "bce,dice", "lovasz"]


class WithHead(TinyNet):
    """Also outputs an image-level logit."""

    def __init__(self):
        super().__init__()
        self.presence = nn.Linear(4, 1)

    def forward(self, x):
        features = self.encoder(x)
        return self.head(features), self.presence(features.mean((2, 3)))


def test_a_presence_head_is_built_trained_and_saved_in_the_results(root, tmp_path, monkeypatch):
    def build(*_, presence_head=False, **__):
        return WithHead() if presence_head else TinyNet()

    for module in (solver_module, ensemble):
        monkeypatch.setattr(module, "build_model", build)
    solver = make(root, tmp_path, presence_weight=0.5, two_stage=False, epoch_stage1=3)
    heads, begin = [], solver.begin_epoch

    def begin_epoch(stage, epoch):
        heads.append(solver.module.presence.weight.detach().clone())
        return begin(stage, epoch)

    solver.begin_epoch = begin_epoch
    solver.fit()
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    presence = load_histograms(tmp_path / "oof.npz").presence
    assert presence is not None
    assert ((presence > 0) & (presence < 1)).all()
    assert len(set(presence.tolist())) > 1
