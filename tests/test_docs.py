"""The pages tell the truth: their commands run, and what they name exists."""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import solver
import train_sfold
from datasets import prepare, sample
from models.names import model_types
from tests.helpers.pages import PAGES, REPOSITORY, commands_of
from tests.helpers.tiny import TinyNet, build_tiny
from utils.commands import adopt
from utils.inference import ensemble
from utils.postprocessing import selection
from utils.training.start import plan

ALONE = "--accelerator cpu --devices 1 --num_workers 0"
TINY = (
    f"{ALONE} --pretrained false --n_splits 2 --image_size_stage1 32 --image_size_stage2 64 "
    "--batch_size_stage1 4 --batch_size_stage2 4 --epoch_stage1 1 --epoch_stage1_freeze 0 "
    "--epoch_stage2 1 --epoch_stage2_accumulation 1 --seed 5"
)
DRAWN = "--count 14 --size 96 --num_workers 0"
TEST_IMAGES = "--images datasets/SIIM_data/test_images"
BLEND = "--run checkpoints/unet_resnet34/A --run checkpoints/linknet/B --weights 0.6,0.4"

REPORT = "python -m utils.report --run checkpoints/unet_resnet34/RUN"

RUN = {
    "python -m datasets.prepare --images dicom-images-train --rle train-rle.csv": "--num_workers 0",
    "python -m datasets.prepare --images dicom-images-test --split test": "--num_workers 0",
    "python -m datasets.prepare --images png-512 --rle train-rle.csv --rle_size 1024x1024": (
        "--num_workers 0 --rle_size 96x96 --out resized"
    ),
    "python -m datasets.check": "",
    "python -m datasets.check --folds checkpoints/unet_resnet34/RUN --exclude bad.txt": "",
    "python -m datasets.preview --out sheet.png": "--size 64",
    "python -m datasets.sample --out datasets/demo_data --size 512": DRAWN,
    "python -m datasets.prepare --images datasets/demo_data/dicom-images-train "
    "--out datasets/demo_data": "--num_workers 0",
    "CUDA_VISIBLE_DEVICES=0 python main.py": TINY,
    "python main.py": TINY,
    "python main.py --config recipes/demo.yaml": TINY,
    "python main.py --config recipes/original_512.yaml": TINY,
    "python main.py --pretrained false": TINY,
    "python main.py --mode choose_threshold --run_name RUN": "",
    "python main.py --run_name old1 --mode train_stage2 --folds 0": "",
    "python train_sfold.py": TINY,
    "python train_sfold.py --groups datasets/SIIM_data/patients.csv": TINY,
    "python train_sfold.py --dataset_root datasets/lungs --run_name lungs": f"{TINY} --folds 0",
    "python train_sfold.py --init_from checkpoints/unet_resnet34/lungs --run_name tuned "
    "--lr 5e-5": f"{TINY} --folds 0",
    "python train_sfold.py --run_name shared --folds 0,3": f"{TINY} --n_splits 4",
    "python train_sfold.py --run_name shared --folds 1,2,4": "--folds 1,2",
    "python train_sfold.py --run_name big --mode train_stage2": "",
    "python train_sfold.py --run_name big --resume true": "",
    "python train_sfold.py --config recipes/original_final.yaml": f"{TINY} --epoch_stage3 1",
    "python train_sfold.py --config recipes/winner.yaml": TINY,
    "python train_sfold.py --config recipes/best.yaml --groups datasets/SIIM_data/patients.csv": (
        TINY
    ),
    "python train_sfold.py --config recipes/cpu.yaml --groups datasets/SIIM_data/patients.csv": (
        f"{TINY} --model_type unet_resnet34 --num_workers 0"
    ),
    f"python predict.py --run checkpoints/unet_resnet34/RUN {TEST_IMAGES} --out submission.csv "
    "--overlays overlays": ALONE,
    "python -m utils.blend --run checkpoints/unet_resnet34/RUN --tta hflip": ALONE,
    f"python predict.py --run checkpoints/unet_resnet34/RUN {TEST_IMAGES} --tta hflip "
    "--out submission.csv": ALONE,
    "python predict.py --run checkpoints/unet_resnet34/RUN --images dicom-images-test "
    "--dicom_seg segmentations": ALONE,
    "python evaluate.py --submission submission.csv --truth stage_2_train.csv "
    "--scores scores.csv": "",
    "python evaluate.py --submission submission.csv --truth test_masks": "",
    "python evaluate.py --submission submission.csv --truth stage_2_train.csv "
    f"--scores scores.csv {TEST_IMAGES} --worst worst.png": "",
    f"python -m utils.blend {BLEND}": ALONE,
    f"python predict.py {BLEND} {TEST_IMAGES} --out submission.csv": ALONE,
    "python -m models.adopt --checkpoint fold0.pth --folds 0 --run_name old "
    "--image_size_stage2 1024": TINY,
    f"python predict.py --run checkpoints/unet_resnet34/old --folds 0 {TEST_IMAGES} "
    "--threshold 0.5 --top_threshold 0.7 --min_area 2048 --out submission.csv": ALONE,
    "python -m models.adopt --checkpoint stage1.pth --stage 1 --folds 0 --run_name old1": TINY,
    REPORT: "",
    f"{REPORT} --attributes attributes.csv --pictures false": "",
    f"{REPORT} --submission submission.csv --truth stage_2_train.csv {TEST_IMAGES}": "",
    "python -m utils.report --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B "
    "--out compared.html": "",
    "python -m models.export --run checkpoints/unet_resnet34/RUN --folds all --out model.onnx": "",
    f"python predict.py --model model.onnx {TEST_IMAGES} --out submission.csv": "",
}
"""Documented commands that are run, with the flags that are added to keep them small."""

SLURM, PIP = "needs a cluster", "changes the environment"
SERVER = "serves until it is stopped"
NOT_RUN = {
    "make demo": "takes minutes; test_demo.py trains on its data",
    "make real DATA=DIR": "takes long; test_real.py runs it small",
    "make check": "runs other tools",
    "make test": "runs this test",
    "make test-slow": "takes long",
    "python main.py --encoder_weights resnet34.pth": "needs a download",
    "python main.py --compile true": "compiles for minutes",
    "python main.py --deterministic true --seed 1": "stays switched on for the tests after it",
    "RESUME=$([ -e checkpoints/unet_resnet34/big/config.yaml ] && echo true || echo false)": SLURM,
    "srun python train_sfold.py --run_name big --resume $RESUME || CODE=$?": SLURM,
    '[ "$CODE" != 75 ] || scontrol requeue $SLURM_JOB_ID': SLURM,
    "exit ${CODE:-0}": SLURM,
    "tensorboard --logdir checkpoints/unet_resnet34/RUN": SERVER,
    "tensorboard --logdir checkpoints": SERVER,
    "tensorboard --logdir_spec "
    "a:checkpoints/unet_resnet34/RUN_A,b:checkpoints/unet_resnet34/RUN_B": SERVER,
    "pip uninstall tensorboard tb-nightly tensorflow-tensorboard": PIP,
    'pip install "tensorboard>=2.21"': PIP,
    "pip install -r requirements-export.txt": PIP,
    "pip install -r requirements-pretrained.txt": PIP,
    "pip install -r requirements-dicom-seg.txt": PIP,
    "pip install -r requirements-predict.txt": PIP,
}
"""Documented commands that are not run, and why."""

PACKAGES = ("benchmarks", "utils.report")
"""Commands that are the `__main__` of a folder."""
OTHER_TOOLS = {"venv", "pytest"}
OTHER_FLAGS = {
    "node_rank",
    "requeue",
    "signal",
    "logdir",
    "logdir_spec",
    "bind_all",
    "flag",
    "help",
}
"""Flags of other programs, and `--flag true|false`, an example."""


def module_of(words: list[str]) -> str:
    """Name the module that `python WORDS` runs."""
    name = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
    return f"{name}.__main__" if name in PACKAGES else name


def run(command: str, name: str) -> int:
    """Run a documented command of `RUN` in this process, and return its exit code.

    Args:
        command: the command.
        name: of the run, if it trains one and does not name it.
    """
    _, _, arguments = command.partition("python ")
    words = shlex.split(f"{arguments} {RUN[command]}")
    if RUN[command].startswith(TINY) and "--run_name" not in words:
        words += ["--run_name", name]
    flags = words[2:] if words[0] == "-m" else words[1:]
    return importlib.import_module(module_of(words)).main(flags)


def tiny_network(model_type: str, *_: object, **settings: Any) -> TinyNet:
    """Stand in for `build_model`."""
    assert model_type in model_types() or model_type.startswith("smp:")
    return build_tiny(**settings)


@pytest.fixture(scope="module")
def networks():
    """Tiny networks instead of real ones, and a blank threshold.png, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TinyNet, "size_step", 32, raising=False)
        for module in (plan, solver, ensemble, adopt):
            patch.setattr(module, "build_model", tiny_network)
        patch.setattr(selection, "draw_threshold", lambda *_: np.zeros((1, 1, 3), np.uint8))
        yield


@pytest.fixture(scope="module")
def prepared(networks, tmp_path_factory):
    """A folder with everything that the pages suppose a reader has."""
    root = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "recipes").symlink_to(REPOSITORY / "recipes")
        _write_data(root)
        for flags in ("--run_name RUN", "--run_name B --model_type linknet"):
            assert train_sfold.main(shlex.split(f"{flags} {TINY}")) == 0
        runs = root / "checkpoints/unet_resnet34"
        shutil.copytree(runs / "RUN", runs / "A")
        shutil.copytree(runs / "RUN", runs / "big", ignore=_after_stage1)
        for name in ("fold0.pth", "stage1.pth"):
            torch.save(TinyNet().state_dict(), root / name)
    return root


def _write_data(root: Path) -> None:
    """Draw DICOMs and csv files as they are downloaded, and prepare them."""
    assert sample.main(["--out", ".", *DRAWN.split()]) == 0
    assert sample.main(["--out", "test", "--seed", "1", *DRAWN.split(), "--count", "4"]) == 0
    (root / "test/dicom-images-train").rename("dicom-images-test")
    (unannotated,) = root.glob(f"dicom-images-test/**/{sample.sample_uid(1, 0)}.dcm")
    unannotated.unlink()
    _, *rows = (root / "test/train-rle.csv").read_text().splitlines(keepends=True)
    (root / "stage_2_train.csv").write_text((root / "train-rle.csv").read_text() + "".join(rows))
    (root / "bad.txt").write_text(f"{sample.sample_uid(0, 1)}  # blurred\n")
    for flags in ("train --rle train-rle.csv", "test --split test"):
        assert prepare.main(f"--images dicom-images-{flags} --num_workers 0".split()) == 0
    shutil.copy("patients.csv", "datasets/SIIM_data")
    shutil.copytree("datasets/SIIM_data/train_images", "png-512")
    flags = "--images dicom-images-test --rle stage_2_train.csv --out tests --num_workers 0"
    assert prepare.main(flags.split()) == 0
    Path("tests/train_mask").rename("test_masks")
    shutil.copytree("datasets/SIIM_data", "datasets/lungs")
    ids = [path.stem for path in Path("datasets/SIIM_data/train_images").iterdir()]
    rows = [f"{name},{'PA' if i % 2 else 'AP'}\n" for i, name in enumerate(ids)]
    Path("attributes.csv").write_text("ImageId,view\n" + "".join(rows))
    ids = [path.stem for path in Path("datasets/SIIM_data/test_images").iterdir()]
    rows = [f"{name},-1\n" for name in ids]
    Path("submission.csv").write_text("ImageId,EncodedPixels\n" + "".join(rows))


def _after_stage1(folder: str, names: list[str]) -> list[str]:
    """Choose the files of a run that appear after stage 1."""
    return [name for name in names if name.startswith(("stage2", "oof", "summary", "threshold"))]


LONG_PAGES = ("docs/training.md", "docs/models.md", "docs/report.md")
"""Pages whose commands train, export and report for many seconds."""

ELSEWHERE = ("docs/original.md",)
"""Pages whose commands another test parses: test_original.py."""
HERE = [page for page in PAGES if page not in ELSEWHERE]


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG_PAGES)) for p in HERE]
)
def test_the_commands_of_a_page_run_one_after_the_other(page, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(tmp_path / "reader")
    for number, command in enumerate(commands_of(page)):
        assert (command in RUN) != (command in NOT_RUN), f"in neither list, or both: {command}"
        if command in RUN:
            assert run(command, f"command{number}") == 0, command


def test_no_command_is_listed_that_no_page_has():
    assert {command for page in HERE for command in commands_of(page)} == RUN.keys() | NOT_RUN


def flags_by_module() -> dict[str, set[str]]:
    """Collect the flags that the pages give to each module, in blocks and in text."""
    found: dict[str, set[str]] = {}
    for text in PAGES.values():
        for command in re.findall(r"python ((?:-m [\w.]+|\w+\.py)[^`\n#]*)", text):
            module = module_of(command.split())
            if module not in OTHER_TOOLS:
                found.setdefault(module, set()).update(re.findall(r"--(\w+)", command))
    return found


def help_of(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("module", sorted(flags_by_module()))
def test_modules_and_their_flags_exist(module, monkeypatch, capsys):
    known = re.findall(r"--(\w+)", help_of(module, monkeypatch, capsys))
    assert flags_by_module()[module] <= set(known)


def test_flags_named_in_the_text_exist(monkeypatch, capsys):
    helps = [help_of(module, monkeypatch, capsys) for module in flags_by_module()]
    known = {flag for text in helps for flag in re.findall(r"--(\w+)", text)}
    named = {flag for text in PAGES.values() for flag in re.findall(r"(?<![\w-])--(\w+)", text)}
    assert named <= known | OTHER_FLAGS


@pytest.mark.parametrize("page", PAGES)
def test_linked_and_named_files_exist(page):
    linked = re.findall(r"\]\((?!http|#)([^)#]+)", PAGES[page])
    missing = [name for name in linked if not (REPOSITORY / page).parent.joinpath(name).exists()]
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`", PAGES[page])
    assert not missing + [name for name in named if not (REPOSITORY / name).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_linked_headings_exist(page):
    for name, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", PAGES[page]):
        target = (REPOSITORY / page).parent.joinpath(name) if name else REPOSITORY / page
        titles = re.findall(r"^#+ (.+)", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = {
        target for text in PAGES.values() for target in re.findall(r"[`\n]make ([\w-]+)", text)
    }
    assert targets >= {"help", "demo", "test", "test-slow", "check"}
    for target in targets:
        assert re.search(rf"^(?:[\w-]+ )*{target}(?: [\w-]+)*:", makefile, re.MULTILINE), target


def test_the_list_of_rooms_has_every_module_once():
    _, _, table = PAGES["CONTRIBUTING.md"].partition("## Where things go")
    named = []
    for room, files in re.findall(r"^\| (.+?) \| (.+) \|$", table, re.MULTILINE):
        folder = room.strip("`") if room.endswith("/`") else ""
        names = re.findall(r"`([\w/]+)`", files)
        named += [name if "/" in name else f"{folder}{name}" for name in names]
    paths = [*REPOSITORY.glob("*.py")]
    for top in ("datasets", "models", "utils"):
        paths += (REPOSITORY / top).rglob("*.py")
    modules = {str(path.relative_to(REPOSITORY).with_suffix("")) for path in paths}
    assert sorted(named) == sorted(m for m in modules if "__init__" not in m)
