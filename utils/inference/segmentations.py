"""DICOM Segmentations of predictions, published only once all of them are complete."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.formats.dicom_seg import (
    Author,
    build_segmentation,
    check_installed,
    check_short_text,
    check_source,
)
from datasets.formats.finding import is_dicom
from utils.config.prediction import PredictOptions
from utils.config.software import describe_software
from utils.config.tta import TTA
from utils.errors import InputError, raise_problems
from utils.inference.staging import StagedFolders
from utils.inference.submission import InputImage, Prediction
from utils.parallel import map_in_order
from utils.postprocessing.rule import PostProcess

_DESCRIPTION = "Pneumothorax (predicted)"


class Segmentations(StagedFolders):
    """Writes <id>.dcm of every image with a mask to a hidden folder; `publish` moves the files.

    Args:
        folder: the folder of the segmentations; None writes none.
        author: who and what made the masks; may be None without a folder.
        suffix: makes the hidden folder unique to this command; the same in every process.
        is_owner: whether this process publishes and cleans up.
    """

    def __init__(self, folder: Path | None, author: Author | None, suffix: str, is_owner: bool):
        super().__init__([folder], suffix, is_owner, replace=False)
        self._author = author

    def write(self, prediction: Prediction, path: Path, mask: np.ndarray) -> None:
        """Write the segmentation of one image, if it has a mask.

        Args:
            prediction: the prediction for the image.
            path: the DICOM of the image.
            mask: [H,W] uint8 of 0 and 1.

        Raises:
            InputError: no segmentation can refer to the DICOM.
        """
        (folder,) = self.hidden
        if folder is not None and self._author is not None and prediction.area:
            segmentation = build_segmentation(path, mask, self._author)
            segmentation.save_as(folder / _file_name(prediction.id))


def describe_author(
    options: PredictOptions, names: Sequence[str], rule: PostProcess, tta: TTA
) -> Author | None:
    """Return who and what makes the masks of a prediction; None if it writes no segmentations.

    Args:
        options: settings of the prediction.
        names: what the runs that predict are called.
        rule: turns probabilities into masks.
        tta: test-time augmentation.
    """
    if options.dicom_seg is None:
        return None
    software = describe_software()
    views = " and ".join(name for name, used in tta._asdict().items() if used)
    return Author(
        software,
        {"runs": " + ".join(names), "tta": views or "none", "rule": rule.describe()},
        options.seg_manufacturer or software.name,
        options.seg_creator or "",
        options.seg_description or _DESCRIPTION,
    )


def check_segmentations(options: PredictOptions, images: Sequence[InputImage]) -> None:
    """Check, before the work begins, that the segmentations that were asked for can be written.

    Raises:
        InputError: a package or a DICOM to refer to is missing, a flag cannot be used, or there is
            a segmentation of an image already.
    """
    texts = {
        flag: getattr(options, flag)
        for flag in ("seg_manufacturer", "seg_creator", "seg_description")
        if getattr(options, flag) is not None
    }
    if options.dicom_seg is None:
        if texts:
            raise InputError(f"--{min(texts)}: has no effect without --dicom_seg DIR")
        return
    check_installed()
    for flag, text in texts.items():
        check_short_text(f"--{flag}", text)
    others = [image.path for image in images if not is_dicom(image.path)]
    if others:
        raise InputError(
            f"--dicom_seg: {others[0]} is no DICOM"
            + (f", and neither are {len(others) - 1:,} others" if len(others) > 1 else "")
            + "; a DICOM segmentation refers to one. Leave such images out, or omit --dicom_seg"
        )
    for image in images:
        existing = options.dicom_seg / _file_name(image.id)
        if existing.exists():
            raise InputError(
                f"{existing}: exists already, and --dicom_seg replaces nothing; choose another "
                "folder, or remove the old segmentations"
            )
    problems = map_in_order(_problem, (image.path for image in images))
    raise_problems([problem for problem in problems if problem], "Leave them out")


def _problem(path: Path) -> str:
    """Return why no segmentation can refer to a DICOM; empty if one can."""
    try:
        check_source(path)
    except InputError as error:
        return str(error)
    return ""


def _file_name(image_id: str) -> str:
    return f"{image_id}.dcm"
