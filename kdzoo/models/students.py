"""Students to distil into: fresh from a size, from chosen teacher layers, from a folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.heads import hidden_size, num_heads, num_layers, unwrap

HEADS = {"classifier": "ForSequenceClassification", "masked_lm": "ForMaskedLM", "none": ""}
_FORMS = "a size such as '4x312' or '4x312,heads=12,ffn=1200', 'teacher:1,3,5', a folder or a hub name"
_OPTIONS = ("heads", "ffn")


class MissingHead(KdzooError):
    """A model without the head that is asked for."""


@dataclass(frozen=True)
class StudentSpec:
    """A student as it was asked for; one of ``layers``, ``teacher_layers`` and ``path`` is set.

    Attributes:
        layers: number of layers of a fresh student.
        width: its hidden size D.
        heads: its attention heads; by default as many as the teacher, or the next smaller number that divides
            D.
        feed_forward: the width of its feed-forward layers; 4 D by default.
        teacher_layers: the teacher's layers to copy, counted from 0.
        path: a folder or a hub name to load.
    """

    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    feed_forward: int | None = None
    teacher_layers: tuple[int, ...] | None = None
    path: str | None = None


def parse_student(spec: str) -> StudentSpec:
    """Read a student's description, without building or loading anything.

    Args:
        spec: ``"4x312"`` (layers x width), optionally followed by ``",heads=12"`` and ``",ffn=1200"``;
            ``"teacher:1,3,5"`` (teacher layers counted from 0); anything else is a folder or a hub name.

    Raises:
        KdzooError: a malformed size or one below 1, a width its heads do not divide, an unknown option, an
            empty list of layers, or one that repeats a layer.
    """
    spec = spec.strip()
    if not spec:
        raise KdzooError(f"the student is empty; give {_FORMS}")
    if spec.startswith("teacher:"):
        return StudentSpec(teacher_layers=_parse_layers(spec))
    if not (size := re.fullmatch(r"(\d+)\s*x\s*(\d+)((?:,[^,]*)*)", spec)):
        if re.match(r"\d+\s*x|x\d", spec) and not Path(spec).exists():
            raise KdzooError(f"student {spec!r} is malformed; give {_FORMS}")
        return StudentSpec(path=spec)
    options: dict[str, int] = {}
    for option in size[3].split(",")[1:]:
        name, _, number = (part.strip() for part in option.partition("="))
        if name not in _OPTIONS:
            raise unknown("student option", name, _OPTIONS)
        if not number.isdecimal():
            raise KdzooError(f"student {spec!r}: {name}={number!r} is not a whole number")
        options[name] = int(number)
    parsed = StudentSpec(
        layers=int(size[1]), width=int(size[2]), heads=options.get("heads"), feed_forward=options.get("ffn")
    )
    _check_sizes(parsed)
    return parsed


def student_config(spec: str | StudentSpec, teacher_config: Any) -> Any:
    """The configuration of a fresh student or of one made from teacher layers.

    Everything but the sizes is the teacher's: architecture, vocabulary, positions, dropout, labels. A
    factorised embedding (ALBERT, ELECTRA) keeps the teacher's embedding size. ModernBERT's pattern of local
    and global layers is the teacher's first layers', or that of the copied layers.

    Raises:
        KdzooError: a layer the teacher does not have, layers that are shared (ALBERT), or a spec that is a
            path.
    """
    spec = parse_student(spec) if isinstance(spec, str) else spec
    old = teacher_config.to_dict()
    layers = num_layers(teacher_config)
    if spec.teacher_layers is not None:
        if "num_hidden_groups" in old:
            raise KdzooError(
                f"{teacher_config.model_type} shares one set of weights among its layers, so none can be "
                "chosen; give a size such as 4x312"
            )
        if wrong := [i for i in spec.teacher_layers if i >= layers]:
            raise KdzooError(f"the teacher has {layers} layers: layer {wrong[0]} is not in 0 to {layers - 1}")
        chosen, sizes = spec.teacher_layers, {"num_hidden_layers": len(spec.teacher_layers)}
    elif spec.layers is not None and spec.width is not None:
        width, most = spec.width, num_heads(teacher_config)
        heads = spec.heads or max(h for h in range(1, min(most, width) + 1) if width % h == 0)
        sizes = {
            "num_hidden_layers": spec.layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "hidden_dim" if "hidden_dim" in old else "intermediate_size": spec.feed_forward or 4 * width,
        }
        chosen = tuple(i % layers for i in range(spec.layers))
        # fields that follow from the sizes, in the architectures that have them
        follow = {
            "pooler_hidden_size": width,
            "embedding_size": width if old.get("embedding_size") == hidden_size(teacher_config) else None,
            "num_hidden_groups": min(old.get("num_hidden_groups") or 1, spec.layers),
            "num_key_value_heads": heads,
            "head_dim": width // heads,
        }
        sizes |= {name: value for name, value in follow.items() if name in old and value is not None}
    else:
        raise KdzooError(f"{spec.path!r} is a path, whose configuration is in its own config.json")
    new = old | {teacher_config.attribute_map.get(name, name): value for name, value in sizes.items()}
    if old.get("layer_types"):
        new["layer_types"] = [old["layer_types"][i] for i in chosen]
    config = type(teacher_config).from_dict(new)
    config.name_or_path = ""
    return config


def make_student(
    spec: str,
    teacher: nn.Module,
    *,
    num_labels: int | None = None,
    heads: int | None = None,
    feed_forward: int | None = None,
    head: str = "classifier",
    seed: int = 0,
) -> Any:
    """A student for a teacher, as a transformers model in float32 and training mode.

    Sizes as published: TinyBERT and LRC-BERT are ``"4x312,heads=12,ffn=1200"``, 14.5 M parameters with BERT's
    vocabulary; DistilBERT takes every other teacher layer, BERT-PKD the first ones.

    Args:
        spec: see `parse_student`. ``"teacher:..."`` also copies the embeddings, the pooler, and the head where the
            teacher has the same. (ModernBERT's first layer has no attention norm: the layer copied to that place goes
            without, and the teacher's first layer gets a new one anywhere else.)
        teacher: a transformers encoder.
        num_labels: the task's labels, the teacher's by default; 1 is regression.
        heads, feed_forward: override those of a fresh student's ``spec``.
        head: what the student has on top: ``"classifier"``, ``"masked_lm"`` or ``"none"``.
        seed: for every weight that is not copied or loaded. The caller's random state is left alone.

    Raises:
        KdzooError: the spec is malformed or does not fit the teacher; a folder is missing or broken;
            vocabulary or label count differ from the teacher's.
    """
    parsed, teacher_model = parse_student(spec), unwrap(teacher)
    wanted = teacher_model.config
    if num_labels is not None and num_labels != wanted.num_labels:
        raise KdzooError(f"the teacher has {wanted.num_labels} labels, the student is to have {num_labels}")
    if heads is not None or feed_forward is not None:
        if parsed.layers is None:
            raise KdzooError(f"heads and feed-forward width are for students from a size, not for {spec!r}")
        parsed = replace(
            parsed,
            heads=parsed.heads if heads is None else heads,
            feed_forward=parsed.feed_forward if feed_forward is None else feed_forward,
        )
        _check_sizes(parsed)
    if parsed.path is not None:
        student = load_model(parsed.path, wanted.num_labels if head == "classifier" else None, head=head, seed=seed)
        if student.config.vocab_size != wanted.vocab_size:
            raise KdzooError(
                f"the student {parsed.path!r} has a vocabulary of {student.config.vocab_size} tokens, the "
                f"teacher of {wanted.vocab_size}; both must read the same tokens"
            )
        return student.train()
    same = auto_class(teacher_model) is _auto_class(head)
    config = student_config(parsed, wanted)
    with _seeded(seed):
        student = (type(teacher_model)(config) if same else _auto_class(head).from_config(config)).float()
    if parsed.teacher_layers is not None:
        models = (teacher_model, student) if same else (teacher_model.base_model, student.base_model)
        _copy_layers(*models, parsed.teacher_layers)
    return student.train()


def auto_class(model: nn.Module) -> Any:
    """The class of transformers that loads a model of this kind, such as ``AutoModelForSequenceClassification``."""
    name = type(unwrap(model)).__name__
    return _auto_class(next((head for head, suffix in HEADS.items() if suffix and name.endswith(suffix)), "none"))


def load_model(
    path: str | Path, num_labels: int | None = None, *, head: str = "classifier", new_head: bool = True, seed: int = 0
) -> Any:
    """Load a model in float32 from safetensors files, in evaluation mode.

    Args:
        path: a folder written by ``save_pretrained``, or a hub name.
        num_labels: the task's labels; by default what the checkpoint says.
        head: what it has on top: ``"classifier"``, ``"masked_lm"`` or ``"none"``.
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
        with _seeded(seed), _quiet():
            model, report = _auto_class(head).from_pretrained(
                name,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # reported below, in one line
                output_loading_info=True,
                **labels,
            )
    except SafetensorError as error:
        check_weights(name)
        raise KdzooError(f"the safetensors file of {name!r} is truncated or damaged: {error}") from error
    except (OSError, ValueError) as error:
        raise KdzooError(f"cannot load the model {name!r}: {why_not(name, error)}") from error
    for key, found, wanted in report["mismatched_keys"]:
        # the head is what lies outside the base model
        if num_labels is not None and not _in_base(key, model):
            raise KdzooError(
                f"the model {name!r} has a head for {next(iter(found))} labels, the task has {num_labels}; "
                "fine-tune it on this task first"
            )
        raise KdzooError(f"{name!r}: {key} has shape {tuple(found)}, its config.json asks for {tuple(wanted)}")
    if missing := [key for key in report["missing_keys"] if _in_encoder(key, model)]:
        raise KdzooError(f"{name!r} lacks {len(missing)} encoder weights, first of them {sorted(missing)[0]}")
    if not new_head and any(not _in_base(key, model) for key in report["missing_keys"]):
        what = {"classifier": "classification", "masked_lm": "masked-language-model"}[head]
        raise MissingHead(f"the model {name!r} has no {what} head")
    return model


def why_not(name: str, error: Exception) -> str:
    """Why what transformers was asked for by a folder's or hub name could not be had, in a line."""
    reason = str(error).strip().splitlines()[0]
    if Path(name).is_dir():
        return reason
    if name.startswith((".", "/", "~")) or name.count("/") > 1:  # no hub name
        return "there is no such folder"
    return f"no folder of that name, and the hub did not give it ({reason})"


def _parse_layers(spec: str) -> tuple[int, ...]:
    listed = [part.strip() for part in spec.removeprefix("teacher:").split(",")]
    if listed == [""]:
        raise KdzooError("'teacher:' names no layers; list them, counted from 0, as in teacher:1,3,5")
    if wrong := [part for part in listed if not part.isdecimal()]:
        raise KdzooError(f"student {spec!r}: {wrong[0]!r} is not a layer; layers are counted from 0: teacher:1,3,5")
    layers = tuple(int(part) for part in listed)
    if repeated := [i for i in layers if layers.count(i) > 1]:
        raise KdzooError(f"student {spec!r} repeats layer {repeated[0]}; name each layer once")
    return layers


def _check_sizes(spec: StudentSpec) -> None:
    sizes = {
        "number of layers": spec.layers,
        "width": spec.width,
        "number of heads": spec.heads,
        "feed-forward width": spec.feed_forward,
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise KdzooError(f"a student's {name} is at least 1, not {size}")
    if spec.heads and spec.width and spec.width % spec.heads:
        raise KdzooError(f"{spec.heads} heads do not divide a student's width of {spec.width}")


def _copy_layers(teacher: Any, student: Any, layers: tuple[int, ...]) -> None:
    count = num_layers(teacher.config)
    lists = [n for n, m in teacher.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise KdzooError(f"{type(teacher).__name__} keeps its {count} layers in no list to choose from; give a size")
    prefix, place = f"{lists[0]}.", {str(layer): str(i) for i, layer in enumerate(layers)}
    copied = {}
    for key, value in teacher.state_dict().items():
        if key.startswith(prefix):
            layer, _, rest = key.removeprefix(prefix).partition(".")
            if layer not in place:
                continue
            key = f"{prefix}{place[layer]}.{rest}"
        copied[key] = value
    student.load_state_dict(copied, strict=False)  # not strict for ModernBERT's first layer


def _auto_class(head: str) -> Any:
    import transformers

    if head not in HEADS:
        raise unknown("head", head, HEADS)
    return getattr(transformers, f"AutoModel{HEADS[head]}")


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
def _seeded(seed: int) -> Iterator[None]:
    # weights are drawn on the CPU; torch.manual_seed would also reset the caller's accelerators
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


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
