"""Term, Objective and weight schedules: losses added up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.registry import create
from kdzoo.models.activations import QKV, Activations, Needs
from kdzoo.models.features import LOGITS, ORDER, Feature
from kdzoo.models.heads import check_transformers, classes_by_token, classification_head, has_decoder
from kdzoo.models.labels import order_between
from kdzoo.models.layers import Pairs, layer_map
from kdzoo.models.needs import check_needs
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.checks import check_attends, check_classes, check_places, of_one_kind
from kdzoo.objectives.expression import name_and_terms, parse_terms
from kdzoo.objectives.gradients import measured
from kdzoo.objectives.lists import as_lists
from kdzoo.objectives.schedule import fractions_of
from kdzoo.objectives.seen import both_real, real_of, seen_by_all, seen_of
from kdzoo.objectives.term import Term
from kdzoo.tasks.pieces import IGNORED

BALANCES = ("fixed", "uncertainty", "gradient_norm")
MEMORY = 0.9  # of the moving average of gradient norms


class ObjectiveOutput(NamedTuple):
    """The total (a scalar with its gradient) and each active term's value (detached, before its weight)."""

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """Weighted losses added up; an ``nn.Module``, so that what its losses learn is trained and saved.

    ``bind`` it to a student and a teacher before use: that resolves the layer maps, makes the projections and refuses
    what cannot work. Per-layer losses are added up over the mapped layers, and the teacher's logits are read in the
    order of the student's labels.

    >>> import kdzoo
    >>> objective = kdzoo.Objective([
    ...     kdzoo.Term("cos_nce", layers="uniform"),
    ...     kdzoo.Term("kd", temperature=1.1, weight=kdzoo.after(0.8, 1.0)),
    ...     kdzoo.Term("ce", weight=kdzoo.after(0.8, 3.0)),
    ... ])

    >>> kdzoo.Objective("kd(temperature=2)*0.5 + ce")
    Objective([
      Term('kd', weight=0.5, temperature=2),
      Term('ce'),
    ])

    Args:
        terms: the losses, or an expression (`kdzoo.objectives.expression`) that says them.
        balance: what happens to the weights w.

            - ``"fixed"``: the total is Σ w·L.
            - ``"uncertainty"``: Σ w·exp(-s)·L + s/2 with an s learned for each term, first 0 (Kendall et al. 2018,
              https://arxiv.org/abs/1705.07115, equation 10 with s = log σ²).
            - ``"gradient_norm"``: Σ w·L·Ḡ/G, where G is a moving average of the norm of the term's gradient at the
              student's parameters and Ḡ its mean over the active terms, so that the weights are shares of the
              gradient's norm. (GradNorm, Chen et al. 2018, https://arxiv.org/abs/1711.02257, equalises these norms by
              gradient steps on the weights; here they are equal by construction.) Measured where ``forward`` is given
              ``parameters``; the trainer does so every ten steps.

    Attributes:
        gradients: what the latest `forward` measured of the terms' gradients: the norm by the term's name, and the
            cosine of two by both names, ``"kd~ce"``; empty where nothing was measured.

    Raises:
        KdzooError: when there is no term, two terms share a name, or the balance is unknown.
    """

    def __init__(self, terms: Iterable[Term] | str, *, balance: str = "fixed") -> None:
        super().__init__()
        if balance not in BALANCES:
            raise unknown("balance", balance, BALANCES)
        self.balance = balance
        self.gradients: dict[str, Tensor] = {}
        if isinstance(terms, str):
            terms = [Term(**term) for term in parse_terms(name_and_terms(terms)[1])]
        self.terms: Sequence[Term] = list(terms)
        if not self.terms:
            raise KdzooError("an objective needs at least one term")
        for term in self.terms:
            if not isinstance(term, Term):
                raise KdzooError(f'an objective is made of terms, such as kdzoo.Term("kd"); got {term!r}')
        for index, term in enumerate(self.terms):
            same = [other for other in self.terms[:index] if other.name == term.name]
            if same:
                raise KdzooError(f"two terms are called {term.name!r}; give one of them another name=")
        if balance == "uncertainty":
            self.log_variances = nn.Parameter(torch.zeros(len(self.terms)))
        elif balance == "gradient_norm":
            self.gradient_norms: Tensor
            self.register_buffer("gradient_norms", torch.zeros(len(self.terms)))
        self.losses = nn.ModuleDict()
        self._pairs: dict[str, Pairs] = {}
        self._features: dict[str, tuple[Feature, Feature]] = {}  # the student's and the teacher's, by term
        self._teacher_head: Callable[[Tensor], Tensor] | None = None
        self._label_order: list[int] | None = None  # where each of the student's labels stands among the teacher's
        self._told = False  # of a progress that was not given
        self._labelled_tokens = False  # the student classifies tokens, and those without a label do not count
        self._targets = False  # it writes targets, whose tokens are others than the mask's

    def __repr__(self) -> str:
        """By its terms; once bound, with the losses that were made of them."""
        lines = [*map(repr, self.terms), *([] if self.balance == "fixed" else [f"balance={self.balance!r}"])]
        if self.losses:
            lines += [f"({name}): {loss!r}" for name, loss in self.losses.items()]
        ended = [line.replace("\n", "\n  ") for line in lines]
        return "Objective([\n" + "".join(f"  {line},\n" for line in ended) + "])"

    def bind(
        self,
        student: nn.Module | ModelShape,
        teacher: nn.Module | ModelShape | None,
        *,
        num_samples: int | None = None,
    ) -> Objective:
        """Fit the objective to two models: layer maps, projections, banks, and the order of their labels.

        Logits are compared by the labels' names, where both models' configurations have some: `forward` is given the
        teacher's as the teacher says them. A loss that matches no classes (``uld``) takes any. What the logits are
        (classes, labels, numbers) one of the configurations may say.

        Args:
            student: a transformers model, or anything with a ``config``; the `ModelShape` of any other.
            teacher: likewise; None when no term needs a teacher.
            num_samples: rows of the training set, for losses that keep a bank of them.

        Returns:
            The objective itself.

        Raises:
            KdzooError: where a term cannot work on these models.
        """
        from_shape = ModelShape.of(student)
        self._labelled_tokens = not isinstance(student, ModelShape) and classes_by_token(student)
        self._targets = not isinstance(student, ModelShape) and has_decoder(student)
        if teacher is None and any(term.loss_class.needs_teacher for term in self.terms):
            needing = next(term for term in self.terms if term.loss_class.needs_teacher)
            raise KdzooError(f"the term {needing.name!r} needs a teacher")
        to_shape = from_shape if teacher is None else ModelShape.of(teacher)
        compared = [term for term in self.terms if term.loss_class.needs_teacher and term.feature == LOGITS]
        matched = [term for term in compared if not term.loss_class.own_classes]
        if matched:
            check_classes(from_shape, to_shape)
        if compared:
            from_shape = of_one_kind(from_shape, to_shape)
        self._label_order = None
        if matched and isinstance(student, nn.Module) and isinstance(teacher, nn.Module):
            self._label_order = order_between(student, teacher)
        if teacher is not None and any("teacher_head" in term.loss_class.extras for term in self.terms):
            check_transformers(teacher)  # its head runs, so a shape will not do
            self._teacher_head = classification_head(cast(nn.Module, teacher))
        for term in self.terms:
            if not isinstance(student, ModelShape):
                check_places(term, student)
            check_attends(term, from_shape, to_shape)
            pairs = self._layer_pairs(term, from_shape, to_shape)
            self._pairs[term.name] = pairs
            self._features[term.name] = term.taken_of(from_shape), term.taken_of(to_shape)
            for side, model in enumerate((student, teacher)):
                if isinstance(model, nn.Module):
                    check_needs(model, self._taken([term], side))
            alone = term.shared or term.loss_class.stacked or term.loss_class.many_to_many or len(pairs) <= 1
            if term.module is not None:
                if not alone and next(term.module.buffers(), next(term.module.parameters(), None)) is not None:
                    raise KdzooError(
                        f"the term {term.name!r} holds a loss with state on {len(pairs)} layers; say shared=True, or "
                        "give the loss by name to get one a layer"
                    )
                self.losses[term.name] = nn.ModuleList([term.module])
                continue
            given = dict(term.options)
            if term.feature == LOGITS or ("labels" in term.loss_class.needs and not term.loss_class.text_labels):
                term.loss_class.check_problem(from_shape, given)
            below = term.feature.of_decoder
            options = term.loss_class.fit(
                given,
                feature=term.feature,
                student=from_shape.of_decoder() if below else from_shape,
                teacher=to_shape.of_decoder() if below else to_shape,
                layers=pairs,
                num_samples=num_samples,
            )
            self.losses[term.name] = nn.ModuleList(
                create(term.loss_class.name, **options) for _ in range(1 if alone else len(pairs))
            )
        for progress in sorted({0.0, *(f for t in self.terms for f in fractions_of(t.weight) if f < 1)}):
            if not self.active(progress):
                raise KdzooError(f"no term has a weight when {progress:.0%} of the training is done")
        return self

    def active(self, progress: float) -> list[Term]:
        """The terms that have a weight when ``progress`` (0 to 1) of the training is done.

        Raises:
            KdzooError: for a progress outside of 0 to 1.
        """
        if not 0 <= progress <= 1:
            raise KdzooError(f"progress is {progress}; it is the fraction of the training that is done, 0 to 1")
        return [term for term in self.terms if term.weight_at(progress) != 0]

    def needs(self, progress: float) -> tuple[Needs, Needs | None]:
        """What the student and the teacher must expose; None for a teacher that is not needed.

        Args:
            progress: fraction of the training done, 0 to 1.
        """
        active = self.active(progress)
        using = [term for term in active if term.loss_class.needs_teacher]
        return self._taken(active, 0, progress), self._taken(using, 1, progress) if using else None

    def teacher_needs(self) -> Needs | None:
        """What the teacher must expose over the whole training; None when no term needs one."""
        using = [term for term in self.terms if term.loss_class.needs_teacher]
        return self._taken(using, 1) if using else None

    def _taken(self, terms: Iterable[Term], side: int, progress: float | None = None) -> Needs:
        """What terms compare of the student (side 0) or the teacher (1), at one time or over all of it."""
        found = Needs(logits=False)
        for term in terms:
            if term.feature == LOGITS:
                found |= Needs()
                continue
            if term.feature == ORDER:
                found |= Needs(logits=False, order=True)
                continue
            pairs = self._bound_pairs(term)
            layers = range(len(pairs)) if progress is None else term.layers_at(progress, len(pairs))
            kept: dict[str, Any] = {self._features[term.name][side].kept: frozenset(pairs[at][side] for at in layers)}
            found |= Needs(logits=False, **kept)
        return found

    def idle(self, student: nn.Module | ModelShape) -> dict[str, str]:
        """``LOSS.OPTION`` of what changes nothing in any of a loss's terms, whatever its value is, and why.

        Args:
            student: what the objective is bound to.
        """
        shape = ModelShape.of(student)
        found: dict[str, dict[str, str]] = {}
        for term in self.terms:
            losses = cast(nn.ModuleList, self.losses[term.name])
            own = cast(DistillationLoss, losses[0]).idle(shape)
            if not [*losses.parameters(), *losses.buffers()]:
                own = own | {"shared": "the loss learns nothing here that layers could share"}
            if len(self._bound_pairs(term)) <= 1:
                own = own | dict.fromkeys(("shared", "layer_reduction", "layer_schedule"), "one layer is compared")
            other = found.get(term.loss_class.name, own)
            found[term.loss_class.name] = {option: why for option, why in own.items() if option in other}
        return {f"{loss}.{option}": why for loss, of in found.items() for option, why in of.items()}

    def forward(
        self,
        student: Activations,
        teacher: Activations | None,
        *,
        labels: Tensor | None = None,
        counted: Tensor | None = None,
        order: Tensor | None = None,
        lists: Tensor | None = None,
        sample_ids: Tensor | None = None,
        progress: float | None = None,
        epoch: int | None = None,
        parameters: Iterable[Tensor] | None = None,
        shares: dict[str, Tensor] | None = None,
    ) -> ObjectiveOutput:
        """The total and the terms of one batch.

        Args:
            student: what the student's forward pass exposed.
            teacher: likewise, its logits in its own labels' order; may be None when no active term needs it.
            labels: (B,); (B, S) where the logits are (B, S, C).
            counted: (B, S), which of the logits (B, S, C) count; by default those of real tokens, of a token
                classifier those that have a label, and so of a target's tokens (B, T).
            order: (B,), 0 where a row's two segments are in order, 1 where they are exchanged, -100 without two.
            lists: (Q, K), the rows of each query's candidates, the true one first: terms on logits are taken on their
                scores (Q, K), with label 0 (`kdzoo.objectives.lists`).
            sample_ids: (B,) indices of the rows in the training set.
            progress: fraction of the training done, 0 to 1; 0 where it is not given, which is warned of once if
                something changes with it.
            epoch: which pass over the rows this is, from 0, for losses that change with it (``rail``).
            parameters: measure each term's gradient at these (`gradients`), at the cost of a backward pass a term.
            shares: of a micro-batch, what each term's value is multiplied by, by what the term takes its mean over
                (`Term.mean_over`), so that the mean over a step's micro-batches is that over its rows or tokens.

        Raises:
            KdzooError: when the objective is not bound, or a loss refuses its input.
        """
        if progress is None:
            progress = 0.0
            self._tell_of_progress()
        if counted is None and self._targets and labels is not None:
            counted = labels != IGNORED
        elif counted is None and self._labelled_tokens and labels is not None:
            counted = labels != IGNORED if student.mask is None else (labels != IGNORED) & student.mask
        context = {"labels": labels, "sample_ids": sample_ids, "epoch": epoch, "counted": counted, "order": order}
        active = self.active(progress)
        if not active:
            raise KdzooError(f"no term has a weight when {progress:.0%} of the training is done")
        if self._label_order is not None and teacher is not None and teacher.logits is not None:
            teacher = replace(teacher, logits=teacher.logits[..., self._label_order])
        if lists is not None:
            student, teacher = as_lists(student, lists), None if teacher is None else as_lists(teacher, lists)
        context["of_lists"] = None if lists is None else lists.new_zeros(len(lists))
        values = {term.name: self._value(term, student, teacher, context, progress) for term in active}
        if shares is not None:
            by_token = student.logits is not None and student.logits.dim() == 3
            over = [term.mean_over(by_token, labelled=counted is not None) for term in active]
            weighed = {term.name: shares[name] for term, name in zip(active, over, strict=True)}
            values = {name: value * weighed[name].to(value.dtype) for name, value in values.items()}
        self.gradients = {} if parameters is None else measured(values, list(parameters))
        if self.gradients and self.balance == "gradient_norm":
            self._remember()
        total = self._total(active, values, progress)
        return ObjectiveOutput(total, {name: value.detach() for name, value in values.items()})

    def _tell_of_progress(self) -> None:
        """Warn once of terms that would stay as they are at the start."""
        moving = [term.name for term in self.terms if term.moves]
        if moving and not self._told and not torch.compiler.is_compiling():
            self._told = True
            warnings.warn(
                f"{', '.join(moving)}: what changes in the course of a training stays as at its start; give the "
                "objective progress=, the fraction of the steps that is done",
                KdzooWarning,
                stacklevel=5,
            )

    def _total(self, active: list[Term], values: dict[str, Tensor], progress: float) -> Tensor:
        indices = [index for index, term in enumerate(self.terms) if term in active]
        total: Tensor | float = 0.0
        for index, term in zip(indices, active, strict=True):
            weighted = values[term.name] * term.weight_at(progress)
            if self.balance == "uncertainty":
                log_variance = self.log_variances[index].to(weighted.dtype)
                weighted = weighted * (-log_variance).exp() + log_variance / 2
            elif self.balance == "gradient_norm":
                norms = self.gradient_norms[indices].to(weighted.dtype)
                own = self.gradient_norms[index].to(weighted.dtype)
                # Before the first measurement, and for a term without a gradient, the weight stands as it is.
                weighted = weighted * torch.where(own > 0, norms.mean() / own.clamp_min(1e-12), 1.0)
            total = total + weighted
        assert isinstance(total, Tensor)
        return total

    @torch.no_grad()
    def _remember(self) -> None:
        for index, term in enumerate(self.terms):
            if term.name in self.gradients:
                old, new = self.gradient_norms[index], mean_over_processes(self.gradients[term.name]).float()
                self.gradient_norms[index] = torch.where(old > 0, MEMORY * old + (1 - MEMORY) * new, new)

    def _value(
        self,
        term: Term,
        student: Activations,
        teacher: Activations | None,
        context: dict[str, Any],
        progress: float,
    ) -> Tensor:
        pairs = self._bound_pairs(term)
        losses = self.losses[term.name]
        assert isinstance(losses, nn.ModuleList)
        if term.loss_class.needs_teacher and teacher is None:
            raise KdzooError(f"the term {term.name!r} needs the teacher's activations")
        given = {"progress": term.progress_at(progress), "teacher_head": self._teacher_head, "epoch": context["epoch"]}
        given["layers"] = len(pairs)
        counted, order, of_lists = (context[name] for name in ("counted", "order", "of_lists"))
        context = {name: context[name] for name in ("labels", "sample_ids")}
        context |= {name: value for name, value in given.items() if name in term.loss_class.extras}
        if term.feature == LOGITS:
            by_token = student.logits is not None and student.logits.dim() == 3
            seen = (student.mask if counted is None else counted) if by_token else None
            if by_token and term.loss_class.needs_teacher:
                seen = both_real(seen, teacher)
            context["labels"] = context["labels"] if of_lists is None else of_lists
            return losses[0](student.logits, None if teacher is None else teacher.logits, mask=seen, **context)
        if term.feature == ORDER:
            return losses[0](student.get(ORDER), **context | {"labels": order})
        assert teacher is not None
        feature, (of_student, of_teacher) = term.feature, self._features[term.name]
        mask = real_of(feature, student, teacher) if feature.by_token else None
        if term.loss_class.stacked or term.loss_class.many_to_many:
            own, other = ([pair[side] for pair in pairs] for side in (0, 1))
            if term.loss_class.many_to_many:
                own, other = sorted(set(own)), sorted(set(other))
            if feature.attention:
                mask = seen_by_all(term, student, teacher, own, other)
            ours = _stack([student.get(of_student, i) for i in own])
            theirs = _stack([teacher.get(of_teacher, j) for j in other])
            return losses[0](ours, theirs, mask=mask, **context)
        values = []
        for index in term.layers_at(progress, len(pairs)):
            i, j = pairs[index]
            seen = seen_of(feature, student, teacher, i, j) if feature.attention else mask
            loss = losses[index % len(losses)]
            values.append(loss(student.get(of_student, i), teacher.get(of_teacher, j), mask=seen, **context))
        summed = torch.stack(values).sum()
        return summed / len(values) if term.layer_reduction == "mean" else summed

    def _bound_pairs(self, term: Term) -> Pairs:
        if term.name not in self._pairs:
            raise KdzooError("call bind(student, teacher) before using the objective")
        return self._pairs[term.name]

    @staticmethod
    def _layer_pairs(term: Term, student: ModelShape, teacher: ModelShape) -> Pairs:
        if term.feature in (LOGITS, ORDER):
            return ()
        if term.feature.layer is not None:
            return ((term.feature.layer, term.feature.layer),)
        if term.feature.of_decoder:
            student, teacher = student.of_decoder(), teacher.of_decoder()
        return layer_map(term.layers, student.num_layers, teacher.num_layers, term.feature)


def _stack(layers: list[Any]) -> Any:
    """All layers in one tensor, or one `QKV`, along a new axis after the rows."""
    if isinstance(layers[0], QKV):
        return QKV(*(torch.stack(tensors, dim=1) for tensors in zip(*layers, strict=True)))
    return torch.stack(layers, dim=1)
