"""A trained student's folder: the model, its tokenizer, and what of its training decides how it reads a text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from kdzoo.bench.files import read_json
from kdzoo.bench.record import TEACHER
from kdzoo.bench.record import read_config as read_comparison
from kdzoo.errors import KdzooError
from kdzoo.models.decoders import check_decoder
from kdzoo.models.loading import MissingHead, class_suffixes, load_model, read_config, why_not
from kdzoo.models.sembert import SemBertConfig
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS
from kdzoo.models.spec import ModelSpec
from kdzoo.tasks import QuestionAnswering, SequenceToSequence, TokenClassification, WithKnowledge, WithRoles, get_task
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.question_answering import ANSWERS, NULLABLE

ReadTask = TokenClassification | QuestionAnswering | SequenceToSequence
READ = ("tokens", "spans", "seq2seq")  # their kinds
CLASSIFIER = "AutoModelForSequenceClassification"


class Trained(NamedTuple):
    """What a student was trained on, as far as the record beside it says so.

    Attributes:
        columns: of text.
        max_length: of a row.
        own: the task's settings, as its `Task.identity` has them.
        kind: of the task.
        nullable: whether some question that it was scored on had no answer.
        facts: whether the model read facts beside the words.
        called: what the data of a task called its columns of text, where those have names of the task's own.
    """

    columns: tuple[str, ...] = ()
    max_length: int | None = None
    own: Mapping[str, Any] = MappingProxyType({})
    kind: str = ""
    nullable: bool = False
    facts: bool = False
    called: tuple[str, ...] = ()


class Student(NamedTuple):
    """A student that was loaded.

    Attributes:
        model: in evaluation mode.
        tokenizer: its own.
        task: the one whose rows it reads, where it tags words, answers questions or writes; None where it classifies.
    """

    model: Any
    tokenizer: Any
    task: ReadTask | None


def trained_with(folder: Path) -> Trained:
    """What the student of a folder was trained on."""
    file = folder / "record.json"
    record: Any = read_json(file) if file.is_file() else {}

    def of(*names: str) -> Any:
        inner = record
        for name in names:
            inner = inner.get(name) if isinstance(inner, dict) else None
        return inner

    # Beside a comparison's student what its cells share is in a part of its own.
    task, shared = str(of("configuration", "task")), ("configuration", "shared")
    own = of("configuration", "own_task") or of(*shared, "own_tasks", task) or of("own_task")
    if own is None and of("configuration", "method") == TEACHER:
        own = _of_comparison(folder, task)
    if own is None:
        own = _identity(task)
    own = own if isinstance(own, dict) else {}
    length = of("configuration", "budget", "max_length") or of(*shared, "budget", "max_length")
    length = length or of(*shared, "teacher_budget", "max_length")
    counted = isinstance(length, int) and not isinstance(length, bool) and length > 1
    golds = of("references")
    golds = [*golds.values()] if isinstance(golds, dict) else []  # which a comparison's students have not
    nullable = of("scored_by", ANSWERS) == NULLABLE or any([] in rows for rows in golds if isinstance(rows, list))
    method = of("configuration", "method")
    above = method == TEACHER if method is not None else of("configuration", "student") is None
    # In the arm both the students read facts too, in the others the teacher alone.
    facts = own.get("facts") is not None and (own.get("arm") == "both" or (above and own.get("arm") != "none"))
    length, kind = length if counted else None, str(of("kind"))
    return Trained(_names(own.get("columns")), length, own, kind, nullable, facts, _names(of("text_columns")))


def check_words_alone(folder: Path, trained: Trained) -> None:
    """Refuse a model that reads facts beside the words, of which a table or an exported file has none.

    Raises:
        KdzooError: says which to take.
    """
    if trained.facts:
        raise KdzooError(f"{folder} reads facts beside the words; take a student of it, which reads words alone")


def _names(found: Any) -> tuple[str, ...]:
    named = isinstance(found, (list, tuple)) and all(isinstance(name, str) for name in found)
    return tuple(found) if named else ()


def _of_comparison(folder: Path, task: str) -> Any:
    """The settings of a teacher's task, from the comparison it is in: the teachers' records of before have none."""
    above = folder.absolute().parent
    if above.name != "teachers":
        return None
    own = read_comparison(above.parent / "config.json").get("shared", {}).get("own_tasks")
    return own.get(task) if isinstance(own, dict) else None


def _identity(task: str) -> Any:
    """The settings of a registered task, or of one in an arm; none of another."""
    with suppress(KdzooError):
        return get_task(task).identity()
    inner, _, arm = task.rpartition("-")
    with suppress(KdzooError):
        found = get_task(inner)
        if isinstance(found, (WithKnowledge, WithRoles)):
            return found.in_arm(arm).identity()
    return {}


def load_student(folder: Path, trained: Trained = Trained()) -> Student:  # noqa: B008 - it cannot change
    """The student of a folder.

    Args:
        folder: as distill, finetune or compare wrote it.
        trained: what it was trained on; the defaults of its kind where nothing is known.

    Raises:
        KdzooError: there is none, or it is of another kind; it cannot be loaded, has no head, no labels or no
            tokenizer; it cannot write what its task asks for.
    """
    task = task_of(folder, trained)
    tokenizer = ModelSpec(str(folder), path=str(folder)).tokenizer  # not parsed: a folder may be called like a size
    try:
        model = load_model(folder, head=CLASSIFIER if task is None else task.head().auto_class, new_head=False)
    except MissingHead as error:
        raise KdzooError(f"{error}; distil it on a task first") from None
    if task is None:
        _check_labels(folder, model.config)
    else:
        check_decoder(model, str(folder), task.longest_target, tokenizer)
    return Student(model.eval(), tokenizer, task)


def task_of(folder: Path, trained: Trained) -> ReadTask | None:
    """The task whose rows the model of a folder reads; None for the classes or numbers of whole rows.

    Raises:
        KdzooError: there is no model, or one of another kind; its labels are no tags; a setting is none that a task can
            have.
    """
    if not (folder / "config.json").is_file():
        raise KdzooError(f"{folder} holds no model; name the folder that distill, finetune or compare wrote one into")
    try:
        config = read_config(folder)
        heads = config.architectures or []
    except Exception as error:  # a file of another form shows as an error of any kind
        raise KdzooError(f"the configuration of {folder} cannot be read: {why_not(str(folder), error)}") from None
    head = str(next(iter(heads), "") if isinstance(heads, list) else heads)

    def is_a(auto_class: str) -> bool:
        return head.endswith(class_suffixes(auto_class))

    if is_a("AutoModelForTokenClassification"):
        return TokenClassification(folder.name, _label_names(folder, config))
    if is_a("AutoModelForQuestionAnswering"):
        own = {name: trained.own[name] for name in QuestionAnswering.settings if name in trained.own}
        return QuestionAnswering(folder.name, **own)
    if is_a("AutoModelForSeq2SeqLM"):
        return SequenceToSequence(folder.name, decoding=Decoding.parse(trained.own.get("decoding")))
    if not head and trained.kind in READ:
        raise KdzooError(f"the configuration of {folder} names no architectures, by which its head would be known")
    if head and not is_a(CLASSIFIER):
        raise KdzooError(f"{folder} holds a {head}; taken are models that classify rows, tag, answer or write")
    if config.model_type == SemBertConfig.model_type:
        raise KdzooError(
            f"{folder} reads semantic roles beside the words; take a student of it, which reads words alone"
        )
    return None


def _check_labels(folder: Path, config: Any) -> None:
    """Refuse a head for another kind of labels than there are, or whose labels have no names, or two the same."""
    kinds, said = (CLASSES, LABELS, NUMBERS), config.problem_type
    if said is not None and said not in kinds:
        raise KdzooError(f"the configuration of {folder} has problem_type={said!r}; it is one of {', '.join(kinds)}")
    _label_names(folder, config)


def _label_names(folder: Path, config: Any) -> tuple[str, ...]:
    names = tuple(config.id2label.get(index) for index in range(config.num_labels))
    if not all(isinstance(name, str) and name.strip() for name in names) or len({*names}) < len(names):
        raise KdzooError(
            f"the configuration of {folder} names its {config.num_labels} labels {list(names[:10])}; each needs a name "
            "of its own, as id2label"
        )
    return names
