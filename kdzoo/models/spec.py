"""ModelSpec: a teacher or a student as it was asked for, read once."""

from __future__ import annotations

import copy
import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdzoo.errors import KdzooError, out_of_memory, unknown
from kdzoo.models.albert_students import Sharing, albert_student
from kdzoo.models.building import POSITIONS, check_sizes, copy_layers, fresh_config, parse_layers, student_config
from kdzoo.models.heads import has_decoder, num_layers, unwrap
from kdzoo.models.labels import check_config, in_task_order, unnamed
from kdzoo.models.loading import (
    HEAD_NAMES,
    auto_class,
    check_attention,
    check_size,
    check_stacks,
    class_of,
    class_suffixes,
    load_model,
    read_config,
    why_not,
    writing_rules,
)
from kdzoo.models.pretrained import OPTIONS as PRETRAINED
from kdzoo.models.pretrained import Pretrained
from kdzoo.models.seeding import seeded
from kdzoo.models.stacks import copy_stacks, fresh_stacks, student_stacks
from kdzoo.models.tokenizers import has_tokenizer, tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdzoo.tasks import Head, Task

FORMS = "a size such as '4x312' or '4x312,heads=12,ffn=1200', 'teacher:1,3,5', a folder or a hub name"
_OPTIONS = ("heads", "ffn", "decoder")
BI, ALBERT = "bi:", "albert:"


@dataclass(frozen=True)
class ModelSpec:
    """A model as it was asked for; one of ``layers``, ``teacher_layers`` and ``path`` is set.

    Attributes:
        text: how it was asked for.
        layers: number of layers of a fresh model.
        width: its hidden size D.
        heads: its attention heads; of a student by default as many as the teacher, or the next smaller number that
            divides D.
        feed_forward: the width of its feed-forward layers; 4 D by default.
        decoder: the layers of the decoder, of an encoder-decoder of a size; as many as the encoder's by default.
        teacher_layers: the teacher's layers to copy, counted from 0; of an encoder-decoder the encoder's.
        teacher_decoder: those of its decoder; the same numbers by default.
        path: a folder or a hub name to load.
        reads: the pretrained models that the stacks of a model of a size read (`kdzoo.models.pretrained`).
        sharing: of an ALBERT, how its layers share their weights.
        two_passes: whether a bi-encoder is made of it (`kdzoo.models.bi_encoder`).
    """

    text: str = field(compare=False)
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    feed_forward: int | None = None
    decoder: int | None = None
    teacher_layers: tuple[int, ...] | None = None
    teacher_decoder: tuple[int, ...] | None = None
    path: str | None = None
    reads: tuple[Pretrained, ...] = ()
    sharing: Sharing | None = None
    two_passes: bool = False

    @classmethod
    def parse(cls, text: str | ModelSpec) -> ModelSpec:
        """Read a description, without building or loading anything.

        Args:
            text: ``"4x312"`` (layers x width), optionally followed by ``",heads=12"``, ``",ffn=1200"`` and, of an
                encoder-decoder, ``",decoder=1"``; ``"teacher:1,3,5"`` (teacher layers counted from 0), or
                ``"teacher:1,3,5/0"`` with those of a decoder; anything else is a folder or a hub name. With
                ``",frozen=PATH"`` or ``",tuned=PATH"`` the encoder of an encoder-decoder of a size reads a pretrained
                model, and with ``",decoder_frozen=PATH"`` or ``",decoder_tuned=PATH"`` its decoder. With ``bi:`` before
                any of them it is a bi-encoder. ``"albert:6x384,embedding=128,groups=1,from=mean"`` is an ALBERT
                (`kdzoo.models.albert_students.Sharing`).

        Raises:
            KdzooError: a malformed size or one below 1, a width its heads do not divide, an unknown option, an
                empty list of layers, or one that repeats a layer.
        """
        if isinstance(text, ModelSpec):
            return text
        text = str(text).strip()
        if not text:
            raise KdzooError(f"the model is empty; give {FORMS}")
        if text.startswith(BI):
            return replace(cls.parse(text.removeprefix(BI)), text=text, two_passes=True)
        if text.startswith(ALBERT):
            plain, sharing = Sharing.parse(text.removeprefix(ALBERT))
            made = cls.parse(plain)
            if not made.is_size or made.decoder is not None or made.reads:
                raise KdzooError(f"{text!r} is malformed; after albert: comes a size, such as 6x384,embedding=128")
            return replace(made, text=text, sharing=sharing)
        if text.startswith("teacher:"):
            encoder, slash, decoder = text.partition("/")
            chosen = parse_layers(f"teacher:{decoder}") if slash else None
            return cls(text, teacher_layers=parse_layers(encoder), teacher_decoder=chosen)
        if not (size := re.fullmatch(r"(\d{1,9})\s*x\s*(\d{1,9})((?:,[^,]*)*)", text)):
            if re.match(r"\d+\s*x|x\d", text) and not os.path.exists(text):
                raise KdzooError(f"{text!r} is malformed; give {FORMS}")
            return cls(text, path=text)
        options: dict[str, int] = {}
        reads: list[Pretrained] = []
        for option in size[3].split(",")[1:]:
            name, _, number = (part.strip() for part in option.partition("="))
            if name not in (*_OPTIONS, *PRETRAINED):
                raise unknown("option of a size", name, (*_OPTIONS, *PRETRAINED))
            if name in PRETRAINED:
                reads.append(Pretrained.parse(name, number))
                if sum(read.stack == reads[-1].stack for read in reads) > 1:
                    raise KdzooError(f"{text!r}: give one pretrained model for the {reads[-1].stack}")
                continue
            if not number.isdecimal() or len(number) > 9:
                raise KdzooError(f"{text!r}: {name}={number!r} is not a whole number")
            options[name] = int(number)
        named = {"heads": "heads", "feed_forward": "ffn", "decoder": "decoder"}
        found: dict[str, Any] = {own: options.get(option) for own, option in named.items()}
        parsed = cls(text, layers=int(size[1]), width=int(size[2]), reads=tuple(reads), **found)
        check_sizes(parsed)
        return parsed

    def __str__(self) -> str:
        return self.text

    @property
    def is_size(self) -> bool:
        """Whether it is a size, to be trained from scratch."""
        return self.layers is not None

    @property
    def folder(self) -> Path | None:
        """The folder that it is loaded from; None for a hub name, a size or a teacher's layers."""
        return Path(self.path) if self.path is not None and os.path.isdir(self.path) else None

    def absolute(self) -> ModelSpec:
        """The same with its folder from the root, for a process that may stand in another."""
        before = BI * self.two_passes
        if self.reads:
            places = [read.path if read.folder is None else str(read.folder.absolute()) for read in self.reads]
            text = self.text
            for read, place in zip(self.reads, places, strict=True):
                text = text.replace(f"{read.option}={read.path}", f"{read.option}={place}")
            reads = (replace(read, path=place) for read, place in zip(self.reads, places, strict=True))
            return replace(self, text=text, reads=tuple(reads))
        return self if self.folder is None else ModelSpec.parse(f"{before}{self.folder.absolute()}")

    @cached_property
    def config(self) -> Any:
        """The configuration of a model that is loaded.

        Raises:
            KdzooError: there is none, or it is not a path.
        """
        if self.path is None:
            raise KdzooError(
                f"{self.text!r} is neither a folder nor a hub name; only those have a configuration of their own"
            )
        try:
            config = read_config(self.path)
            check_attention(config, self.path)
            check_size(config, self.path)
            self._check_passes(config)
            return config
        except KdzooError:
            raise
        except Exception as error:  # a file of another form shows as an error of any kind
            there = self.folder is not None and (self.folder / "config.json").is_file()
            what = f"the configuration of {self.path!r} cannot be read" if there else f"no model at {self.path!r}"
            raise KdzooError(f"{what}: {why_not(self.path, error)}") from None

    def _check_passes(self, config: Any) -> None:
        """Refuse a bi-encoder's folder that is taken for a plain model, whose scores would be left out unsaid."""
        from kdzoo.models.bi_encoder import MARK

        if getattr(config, MARK, False) and not self.two_passes:
            raise KdzooError(
                f"{self.path!r} holds a bi-encoder, which reads a row in two passes and is for students of triples; "
                f"name it {BI}{self.path} as the student, and as a teacher a model that reads whole rows"
            )

    @property
    def num_layers(self) -> int:
        """How many layers it has."""
        if self.teacher_layers is not None:
            return len(self.teacher_layers)
        return self.layers if self.layers is not None else num_layers(self.config)

    @cached_property
    def tokenizer(self) -> Any:
        """See `kdzoo.models.tokenizers.tokenizer_of`."""
        return tokenizer_of(self)

    @property
    def has_tokenizer(self) -> bool:
        """See `kdzoo.models.tokenizers.has_tokenizer`."""
        return has_tokenizer(self)

    @property
    def separate_targets(self) -> bool:
        """Whether it is a size whose encoder alone reads a pretrained model, so that it writes other words."""
        return bool(self.reads) and all(read.stack == "encoder" for read in self.reads)

    def has_head(self, head: Head) -> bool:
        """Whether what is loaded has a head of that kind."""
        suffixes = class_suffixes(head.auto_class)
        return self.path is not None and any(name.endswith(suffixes) for name in self.architectures)

    @property
    def architectures(self) -> list[str]:
        """The classes of transformers that it was saved from, as its configuration says."""
        said = self.config.architectures or []
        return [str(name) for name in (said if isinstance(said, (list, tuple)) else [said])]

    def check_teacher(self) -> None:
        """Refuse a bi-encoder as a teacher.

        Raises:
            KdzooError: says what a teacher is.
        """
        if self.two_passes:
            raise KdzooError(
                f"the teacher {self} is a bi-encoder, which is for students; give a teacher that reads whole rows"
            )

    def check_head(self, task: Task) -> None:
        """Refuse a teacher without the task's head, which would teach the noise of a new one.

        Raises:
            KdzooError: says how to fine-tune one.
        """
        self.check_teacher()
        head = task.head()
        if self.is_size:
            raise KdzooError(f"a teacher of size {self} has learned nothing yet; train it with: kdzoo finetune")
        check_stacks(self.config, head.auto_class, self.text)
        if not self.has_head(head):
            architecture = ", ".join(self.architectures) or "unknown architecture"
            raise KdzooError(
                f"the teacher {self.text!r} ({architecture}) has no {HEAD_NAMES.get(head.auto_class, 'such')} head "
                "to learn from; fine-tune it on the task first: kdzoo finetune"
            )
        if task.fusion and not self.fuses:
            raise KdzooError(
                f"the teacher {self.text!r} does not join words with roles, and {task.name} is about one that does; "
                "fine-tune it on the task first: kdzoo finetune"
            )

    def build(
        self,
        task: Task | None,
        *,
        teacher: nn.Module | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        positions: int = POSITIONS,
        seed: int = 0,
    ) -> Any:
        """The model with a task's head, in float32.

        Args:
            task: whose head it gets; None for what the teacher has.
            teacher: makes it a student of this model: of its architecture where it is a size, or of its layers.
            tokenizer: whose tokens a model of a size without a teacher reads.
            positions: the most tokens a row of such a model has.
            seed: for every weight that is not copied or loaded. The caller's random state is left alone.

        Raises:
            KdzooError: it cannot be loaded or built; its head is for other labels.
        """
        if self.two_passes:
            from kdzoo.models.bi_encoder import bi_encoder_of

            assert task is not None
            return bi_encoder_of(self, task, teacher, tokenizer, positions, seed)
        if teacher is not None and self.path is None:
            return self.student_of(teacher, class_of(task.head().auto_class) if task else None, seed)
        if self.teacher_layers is not None:
            raise KdzooError(f"{self.text!r} is made of a teacher's layers, and there is no teacher")
        assert task is not None
        head, fusion = task.head(), task.fusion if teacher is None else None
        if self.is_size:
            assert tokenizer is not None
            with seeded(seed):
                config = self._fresh_config(head, tokenizer, positions)
                made = class_of("none" if fusion else head.auto_class).from_config(config, trust_remote_code=False)
            return self._fused(made, head, fusion, seed) if fusion else self._reading(made)
        assert self.path is not None
        order = self.check_labels(task, fused=bool(fusion))
        if fusion and not self.fuses:
            return self._fused(load_model(self.path, head="none"), head, fusion, seed)
        model = load_model(self.path, head.config.get("num_labels"), head=head.auto_class, seed=seed)
        return in_task_order(model, head, order, f"{self.text!r}")

    @property
    def fuses(self) -> bool:
        """Whether what is loaded joins words with roles."""
        return self.path is not None and self.config.model_type == "sembert"

    @staticmethod
    def _fused(encoder: nn.Module, head: Head, fusion: dict[str, Any], seed: int) -> Any:
        from kdzoo.models.sembert import SemBertForSequenceClassification

        return SemBertForSequenceClassification.around(encoder, head.config, seed, **fusion)

    def student_of(self, teacher: nn.Module, kind: Any = None, seed: int = 0) -> Any:
        """A student of a teacher's architecture: of a size, or of its layers.

        Args:
            teacher: a transformers encoder.
            kind: the class of transformers that makes it; as the teacher's when None.
            seed: for every weight that is not copied.

        Raises:
            KdzooError: it does not fit the teacher.
        """
        model: Any = unwrap(teacher)
        kind = kind or auto_class(model)
        if self.sharing is not None:
            return albert_student(self, model, kind, seed)
        plain = getattr(model, "plain_config", None)  # of a teacher that is more than its students
        above = model.config if plain is None else plain()
        config = (student_stacks if above.is_encoder_decoder else student_config)(self, above)
        same = auto_class(model) is kind and type(config) is type(model.config)
        try:
            with seeded(seed):
                student = (type(model)(config) if same else kind.from_config(config, trust_remote_code=False)).float()
        except ValueError as error:
            if not str(error).startswith("Unrecognized configuration class"):
                raise
            raise KdzooError(f"{self.text!r}: transformers has no {kind.__name__} of {config.model_type!r}") from None
        if getattr(model, "generation_config", None) is not None and (same or _writes_the_same(config, above)):
            student.generation_config = copy.deepcopy(model.generation_config)  # both write by the same rules
        if self.teacher_layers is not None and has_decoder(model):
            copy_stacks(model, student, self.teacher_layers, self.teacher_decoder or self.teacher_layers)
        elif self.teacher_layers is not None:
            models = (model, student) if same else (model.base_model, student.base_model)
            copy_layers(*models, self.teacher_layers)
        return self._reading(student)

    def _reading(self, model: Any) -> Any:
        """The model with the weights of the pretrained models that it reads, where it does and has weights."""
        if not any(parameter.is_meta for parameter in model.parameters()):
            for read in self.reads:
                model.take_source(read.stack, load_model(read.path, head="none"))
        return model

    def build_on_meta(self, task: Task, *, tokenizer: Any = None, positions: int = POSITIONS) -> Any:
        """The model without weights, for checks.

        Raises:
            KdzooError: its configuration cannot be loaded, or its head is for other labels.
        """
        head, fusion = task.head(), task.fusion
        if self.is_size:
            config = self._fresh_config(head, tokenizer, positions)
        else:
            check_stacks(self.config, head.auto_class, self.text)
            self.check_labels(task, fused=bool(fusion))
            config = type(self.config).from_dict({**self.config.to_dict(), **head.config})
        if fusion and not self.fuses:
            from kdzoo.models.sembert import SemBertConfig

            config = SemBertConfig(encoder=config.to_dict(), **fusion, **head.config)
        try:
            with torch.device("meta"):
                made = class_of(head.auto_class).from_config(config, trust_remote_code=False)
        except Exception as error:  # of another form than its model's shows as an error of any kind
            if self.is_size or out_of_memory(error):
                raise
            why = f"{type(error).__name__}: {why_not(str(self.path), error)}"
            raise KdzooError(f"the configuration of {self.path!r} makes no model: {why}") from None
        if self.path is not None and has_decoder(made):
            made.generation_config = writing_rules(self.path) or made.generation_config
        return made

    def _fresh_config(self, head: Head, tokenizer: Any, positions: int) -> Any:
        """The configuration of a model that is trained from scratch: BERT's, or BART's for texts to write."""
        if head.auto_class == "AutoModelForSeq2SeqLM":
            if self.sharing is not None:
                raise KdzooError(f"{self.text!r} is an ALBERT, which writes no text; give a size such as 4x312")
            return fresh_stacks(self, tokenizer, positions)
        given = [*(["decoder"] if self.decoder is not None else []), *(read.option for read in self.reads)]
        if given:
            raise KdzooError(f"{self.text!r}: {given[0]}= is for tasks that write text; leave it out")
        return fresh_config(self, tokenizer, head.config, positions)

    def check_labels(self, task: Task, *, fused: bool = False) -> list[int] | None:
        """Refuse a head for other labels than the task's; where each of those stands among its own.

        Args:
            task: what for.
            fused: the model is to join words with roles.

        Returns:
            None where the labels have no names, or the head will be new.

        Raises:
            KdzooError: says which it is for.
        """
        head = task.head()
        if self.fuses and not fused:
            raise KdzooError(f"{self.text!r} reads semantic roles; it is a teacher of tasks whose rows have them")
        if fused and not self.fuses:
            return None  # its head will be a new one, above words and roles
        return check_config(self.config, head, f"{self.text!r}", task.name) if self.has_head(head) else None

    def about_labels(self, task: Task) -> str | None:
        """A line where a task's order has to be taken for that of labels without names; None where it has not."""
        names = task.head().config.get("id2label")
        if not names or not self.has_head(task.head()) or not unnamed(self.config.id2label):
            return None
        return (
            f"{task.name}: the teacher {self.text!r} has no names for its labels (LABEL_0 ...); they are taken in the "
            f"task's order: {', '.join(names.values())}"
        )


def _writes_the_same(config: Any, other: Any) -> bool:
    """Whether encoder-decoders of two configurations write the same words, from the same token to the same one."""
    names = ("is_encoder_decoder", "vocab_size", "decoder_start_token_id", "eos_token_id", "pad_token_id")
    return bool(config.is_encoder_decoder) and all(
        getattr(config, name, None) == getattr(other, name, None) for name in names
    )
