"""Pretrained: a model whose states a stack of an encoder-decoder reads in place of word embeddings, as it is asked for.

Source: Edunov, Baevski and Auli (2019), Pre-trained Language Model Representations for Language Generation, section 3.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdzoo.errors import KdzooError

FROZEN, TUNED = "frozen", "tuned"
ARMS = (FROZEN, TUNED)
OPTIONS = (*ARMS, *(f"decoder_{arm}" for arm in ARMS))  # of a size


@dataclass(frozen=True)
class Pretrained:
    """One stack's pretrained model.

    Attributes:
        stack: ``"encoder"`` or ``"decoder"``, which reads it.
        arm: ``"frozen"``, its layers mixed, or ``"tuned"``, its top layer, trained along.
        path: a folder or a hub name.
    """

    stack: str
    arm: str
    path: str

    @classmethod
    def parse(cls, option: str, path: str) -> Pretrained:
        """From one of `OPTIONS` and what stands behind it.

        Raises:
            KdzooError: nothing does.
        """
        if not path:
            raise KdzooError(f"{option}= names no pretrained model; give a folder or a hub name, {option}=FOLDER")
        stack, arm = (
            ("decoder", option.removeprefix("decoder_")) if option.startswith("decoder_") else ("encoder", option)
        )
        return cls(stack, arm, path)

    @property
    def option(self) -> str:
        """How a size asks for it."""
        return self.arm if self.stack == "encoder" else f"decoder_{self.arm}"

    @property
    def folder(self) -> Path | None:
        """The folder that it is loaded from; None for a hub name."""
        return Path(self.path) if os.path.isdir(self.path) else None

    def told(self, config: Any) -> dict[str, Any]:
        """What a `kdzoo.models.representations.RepresentedConfig` says of it.

        Args:
            config: the pretrained model's configuration.
        """
        before = "" if self.stack == "encoder" else "decoder_"
        own = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}  # of this machine
        return {f"{before}source": own, f"{before}arm": self.arm}
