"""Mean and deviation as settings: one number, three, or none."""

import pytest

from utils.config.checks import check_settings
from utils.config.normalisation import IMAGENET, Normalisation
from utils.config.settings import Config
from utils.errors import InputError


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (None, None, IMAGENET),
        (0.5, 1, Normalisation((0.5, 0.5, 0.5), (1, 1, 1))),
        ("0.5", "0.1, 0.2,3e-1", Normalisation((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))),
    ],
)
def test_settings_and_normalisation_are_the_same(mean, std, expected):
    assert Config(input_mean=mean, input_std=std).normalisation == expected
    again = expected.as_text()
    assert Config(input_mean=again[0], input_std=again[1]).normalisation == expected


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ("0.5", None, "^--input_mean needs --input_std$"),
        (None, "0.5", "^--input_std needs --input_mean$"),
        ("0.5,0.5", "1", r"--input_mean 0\.5,0\.5: give one number, or three"),
        ("0.5", "half", "--input_std half: give one number, or three"),
        ("nan", "1", "--input_mean nan: give one number"),
        (0.5, float("inf"), "--input_std inf: give one number"),
        ("0.5", "0.5,0,0.5", r"--input_std 0\.5,0,0\.5: must be above 0"),
    ],
)
def test_unusable_values_are_refused(mean, std, message):
    with pytest.raises(InputError, match=message):
        check_settings(Config(input_mean=mean, input_std=std))
