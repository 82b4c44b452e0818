"""Holds the fields of a dataclass of settings to their types."""

from dataclasses import fields
from typing import get_args

from utils.errors import InputError


def check_types(settings: object) -> None:
    """Refuse a value that is not of its field's type; a whole number passes for a float.

    Args:
        settings: a dataclass whose fields are of plain types, unions of them, or Literal.

    Raises:
        InputError: a value is of another type; its field is named as a flag.
    """
    for setting in fields(settings):
        value, kinds = getattr(settings, setting.name), get_args(setting.type) or (setting.type,)
        whole = type(value) is int and float in kinds
        if not whole and type(value) not in kinds and value not in kinds:
            names = (kind if isinstance(kind, str) else kind.__name__ for kind in kinds)
            listed = " or ".join(names).replace("NoneType", "null")
            raise InputError(f"--{setting.name} {value!r}: is not {listed}")
