"""Test-time augmentation: what an image is predicted as besides itself."""

from typing import Literal, NamedTuple, get_args

from utils.errors import InputError

TTAName = Literal["none", "hflip", "scales", "hflip,scales"]


class TTA(NamedTuple):
    """Test-time augmentation; with both parts, an image is predicted at every scale both ways.

    Attributes:
        hflip: average with the prediction of the mirrored image.
        scales: average over several image sizes, see `models.sizes.scaled_sizes`.
    """

    hflip: bool = False
    scales: bool = False


NO_TTA = TTA()


def parse_tta(text: str, where: object = "--tta") -> TTA:
    """Parse one of `TTAName`.

    Args:
        text: such as hflip,scales.
        where: where the text was found, for the error message.

    Raises:
        InputError: it is none of them.
    """
    if text not in get_args(TTAName):
        raise InputError(f"{where}: tta {text!r} is none of {'; '.join(get_args(TTAName))}")
    return TTA(hflip="hflip" in text, scales="scales" in text)
