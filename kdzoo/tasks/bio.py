"""BIO tags: which strings are some."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdzoo.errors import KdzooError

_TAG = re.compile(r"O|[BI](-\S+)?")


def check_tags(tags: Sequence[str], where: str) -> None:
    """Refuse a tag that is no BIO.

    Args:
        tags: of one sentence.
        where: what a message begins with; the word's position is added.

    Raises:
        KdzooError: names position and tag.
    """
    for position, tag in enumerate(tags, 1):
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            raise KdzooError(f"{where}, word {position}: {tag!r} is no BIO tag; expected O, B, I, B-TYPE or I-TYPE")
