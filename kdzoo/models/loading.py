"""Loads transformers models in float32 from safetensors files, with a head of one's choice."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdzoo.errors import KdzooError, out_of_memory, unknown
from kdzoo.models.heads import has_decoder, unwrap
from kdzoo.models.seeding import seeded
from kdzoo.tasks import source_target
from kdzoo.tasks.source_target import SourceTargetTokenizer

HEADS = {
    "classifier": "ForSequenceClassification",
    "token_classifier": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "seq2seq_lm": "ForConditionalGeneration",
    "masked_lm": "ForMaskedLM",
    "pretraining": "ForPreTraining",  # words, and the order of two segments
    "none": "",
}
_AUTO = {"seq2seq_lm": "AutoModelForSeq2SeqLM"}  # where the class is not called after the models


MOST_LAYERS = 1000
HEAD_NAMES = {
    "AutoModelForSequenceClassification": "classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForSeq2SeqLM": "sequence-to-sequence",
}
_LAYER = re.compile(r"(^|\.)(layers?|blocks?|h)\.\d+\.")  # in the names of a layer's weights


class MissingHead(KdzooError):
    """A model without the head that is asked for."""


def auto_class(model: nn.Module) -> Any:
    """The class of transformers that loads a model of this kind, such as ``AutoModelForSequenceClassification``."""
    if has_decoder(model):
        return class_of("seq2seq_lm")
    name = type(unwrap(model)).__name__
    return class_of(next((head for head, suffix in HEADS.items() if suffix and name.endswith(suffix)), "none"))


def read_config(path: str | Path) -> Any:
    """The configuration of a folder or a hub name, of kdzoo's own kinds of models, too.

    Raises:
        Exception: transformers' own, of any kind, where there is none that it can read.
    """
    from transformers import AutoConfig

    importlib.import_module("kdzoo.models.representations")  # kinds of models that transformers does not know
    importlib.import_module("kdzoo.models.sembert")
    return AutoConfig.from_pretrained(str(path), trust_remote_code=False)


def writing_rules(path: str | Path) -> Any:
    """A model's own rules of writing (``generation_config.json``); None where it has no such file."""
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError):
        return None
    vars(found).pop("trust_remote_code", None)  # which it would keep as a rule
    return found


def load_model(
    path: str | Path, num_labels: int | None = None, *, head: str = "classifier", new_head: bool = True, seed: int = 0
) -> Any:
    """Load a model in float32 from safetensors files, in evaluation mode.

    Args:
        path: a folder written by ``save_pretrained``, or a hub name.
        num_labels: the task's labels; by default what the checkpoint says.
        head: what it has on top: a key of `HEADS`, or the name of a class ``AutoModelFor...``.
        new_head: give a checkpoint without that head a new one.
        seed: for the new head. The caller's random state is left alone.

    Raises:
        KdzooError: there is no such folder or hub name; it has no readable configuration or safetensors
            weights (a truncated file is named); weights of the encoder are missing; its head is for another
            number of labels.
        MissingHead: it has none, and is not to get a new one.
    """
    from safetensors import SafetensorError

    name, labels = str(path), {} if num_labels is None else {"num_labels": num_labels}
    try:
        with seeded(seed), _quiet():
            config = read_config(name)
            check_attention(config, name)
            check_size(config, name)
            check_stacks(config, class_of(head).__name__, name)
            model, report = class_of(head).from_pretrained(
                name,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # reported below, in one line
                output_loading_info=True,
                **labels,
            )
    except SafetensorError as error:
        check_weights(name)
        raise KdzooError(f"the safetensors file of {name!r} is truncated or damaged: {error}") from error
    except KdzooError:
        raise
    except Exception as error:  # a configuration of another form shows as an error of any kind
        if out_of_memory(error):
            raise
        raise KdzooError(f"cannot load the model {name!r}: {why_not(name, error)}") from error
    for key, found, wanted in report["mismatched_keys"]:
        # the head is what lies outside the base model
        if num_labels is not None and not _in_base(key, model):
            raise KdzooError(
                f"the model {name!r} has a head for {next(iter(found))} labels, the task has {num_labels}; "
                "fine-tune it on this task first"
            )
        raise KdzooError(
            f"{name!r}: {key} has shape {tuple(found)}, its config.json asks for {tuple(wanted)}; put back the "
            "configuration that it was saved with"
        )
    if missing := [key for key in report["missing_keys"] if _in_encoder(key, model)]:
        raise KdzooError(
            f"{name!r} lacks {len(missing)} encoder weights, first of them {sorted(missing)[0]}; copy it whole"
        )
    if left := [key for key in report["unexpected_keys"] if _LAYER.search(key)]:
        raise KdzooError(
            f"{name!r} holds weights of layers that its config.json has no place for, first of them {sorted(left)[0]}; "
            "put back the configuration that it was saved with"
        )
    if not new_head and any(not _in_base(key, model) for key in report["missing_keys"]):
        what = {"classifier": "classification", "masked_lm": "masked-language-model", **HEAD_NAMES}.get(head, head)
        raise MissingHead(f"the model {name!r} has no {what} head")
    return model


def load_tokenizer(path: str | Path, *, separate_targets: bool | None = None) -> Any:
    """The tokenizer of a folder or a hub name.

    Args:
        path: the folder or the hub name.
        separate_targets: whether targets have one of their own (`kdzoo.tasks.source_target`); by default where the
            folder says so.

    Raises:
        KdzooError: there is none, or it says no length that it could read; of two, one is missing or another than the
            one that was saved.
    """
    name = str(path)
    if separate_targets is None:
        separate_targets = any((Path(name) / part).exists() for part in (source_target.FOLDER, source_target.FILE))
    return SourceTargetTokenizer.load(name, _tokenizer) if separate_targets else _tokenizer(name)


def _tokenizer(name: str, within: str = "") -> Any:
    """One tokenizer, of a folder within a folder or a hub name."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, subfolder=within, trust_remote_code=False)
    except Exception as error:  # a file of another form shows as an error of any kind; tokenizers raises Exception
        place = f"{name}/{within}" if within else name
        raise KdzooError(f"no tokenizer at {place!r}: {why_not(name, error)}") from None
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or not longest >= 1:
        raise KdzooError(
            f"the tokenizer at {name!r} has model_max_length={longest!r}; correct it in its tokenizer_config.json: "
            "the most tokens that the model reads"
        )
    return tokenizer


def check_attention(config: Any, name: str) -> None:
    """Refuse a configuration whose attention is a kernel of the hub, which is code that would be downloaded and run.

    Raises:
        KdzooError: names it.
    """
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "_attn_implementation"))]
    for part in parts:
        asked = str(getattr(part, "_attn_implementation", None) or "")
        if "/" in asked:
            raise KdzooError(
                f"the configuration of {name!r} asks for the attention {asked!r}, which is code from the hub, and "
                "kdzoo runs none; remove attn_implementation from its config.json"
            )


def check_size(config: Any, name: str) -> None:
    """Refuse a configuration of more layers or weights than can be made, before anything is.

    Raises:
        KdzooError: names the sizes.
    """

    def size(*fields: str) -> int:
        found = (getattr(config, field, None) for field in fields)
        return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), 0)

    layers, width = size("num_hidden_layers"), size("hidden_size")
    of_layer = width * (4 * width + 2 * size("intermediate_size"))
    of_tables = (size("vocab_size") + size("max_position_embeddings")) * size("embedding_size", "hidden_size")
    weights = size("num_hidden_groups", "num_hidden_layers") * of_layer + of_tables  # ALBERT's groups share theirs
    check_fits(f"the configuration of {name!r}", layers, width, weights)


def check_fits(what: str, layers: int, width: int, weights: float) -> None:
    """Refuse a model that this machine cannot hold.

    Args:
        what: how it is called in the message.
        layers, width, weights: of it; the last are numbers of four bytes.

    Raises:
        KdzooError: names the sizes.
    """
    memory = machine_memory()
    if layers > MOST_LAYERS or (memory is not None and 4 * weights > memory):
        raise KdzooError(
            f"{what} is of {layers} layers of width {width} and {weights:.1e} weights, {4 * weights / 1e9:,.0f} GB, "
            f"and this machine has {(memory or 0) / 1e9:,.0f} GB of memory; take a smaller model (of at most "
            f"{MOST_LAYERS} layers)"
        )


def check_stacks(config: Any, kind: str, name: str) -> None:
    """Refuse a model without a decoder for a task that writes text.

    Args:
        config: the model's.
        kind: the class of transformers that is to load it.
        name: how the model is called in messages.

    Raises:
        KdzooError: says what to take.
    """
    if kind == "AutoModelForSeq2SeqLM" and not config.is_encoder_decoder:
        raise KdzooError(
            f"the model {name!r} ({config.model_type}) has no decoder to write with; take an encoder-decoder such as "
            "BART, T5 or Marian, or a size such as 2x64, which is trained from scratch"
        )


def machine_memory() -> int | None:
    """Bytes of memory that the machine has; None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def why_not(name: str, error: Exception) -> str:
    """Why what transformers was asked for by a folder's or hub name could not be had, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if os.path.isdir(name):
        return reason
    if name.startswith((".", "/", "~")) or name.count("/") > 1:  # no hub name
        return "there is no such folder"
    return f"no folder of that name, and the hub did not give it ({reason})"


def class_of(head: str) -> Any:
    """The class of transformers for a head: a key of `HEADS`, or the class's own name.

    Raises:
        KdzooError: for another head.
    """
    import transformers

    if head.startswith("AutoModel") and hasattr(transformers, head):
        return getattr(transformers, head)
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    return getattr(transformers, _AUTO.get(head, f"AutoModel{HEADS[head]}"))


def class_suffixes(auto_class: str) -> tuple[str, ...]:
    """How the classes of models with a head are called after the model's name."""
    own = {"AutoModelForSeq2SeqLM": ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")}
    return own.get(auto_class, (auto_class.removeprefix("AutoModel"),))


def _in_base(key: str, model: Any) -> bool:
    return model.base_model is model or key.startswith(model.base_model_prefix + ".")


def _in_encoder(key: str, model: Any) -> bool:
    # a pooler is often left out of checkpoints, and trained with the head
    return _in_base(key, model) and "pooler." not in key


def check_weights(folder: str) -> None:
    """Refuse a folder's safetensors files where one is cut short; what else is named has none, and passes.

    Raises:
        KdzooError: names the file.
    """
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise KdzooError(f"{file} is truncated or damaged: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
