"""Reads a setting of a recipe, ``METHOD:KEY=VALUE``."""

from __future__ import annotations

from kdzoo.errors import KdzooError
from kdzoo.yaml_files import MOST_CHARACTERS


def split_setting(setting: str) -> tuple[str, str, str]:
    """The method that a setting ``METHOD:KEY=VALUE`` is for, or an empty text for all; its key and its value.

    Raises:
        KdzooError: for a text of another form.
    """
    before, equals, value = setting.partition("=")
    method, colon, key = (part.strip() for part in before.rpartition(":"))
    if not equals or not key or (colon and not method) or len(setting) > MOST_CHARACTERS:
        raise KdzooError(
            f"setting {setting!r} is not of the form key=value, such as kd.temperature=2, or METHOD:key=value"
        )
    return method, key, value
