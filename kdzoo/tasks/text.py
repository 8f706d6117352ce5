"""Unlabelled text for general distillation: read from files or a datasets folder, and packed into rows of tokens.

A line is a sentence or a paragraph; a blank line ends a document. Rows are kept in an Arrow file and read
memory-mapped, so that the text may be larger than the memory.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo import hashing
from kdzoo.errors import KdzooError
from kdzoo.tasks.reading import check_file
from kdzoo.tasks.segments import PIECES, Segments

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FORMAT = "1"
COLUMN = "text"
LINES = 1000  # tokenised at a time
SHORT = 0.1  # the share of rows of two segments that end early, as ALBERT and BERT have it


class Text:
    """Lines of text from files and folders.

    Args:
        sources: text files (also gzipped), folders of ``.txt`` and ``.txt.gz`` files, or folders that
            ``datasets.save_to_disk`` wrote, whose ``train`` split is taken where they have several.
        column: of a datasets folder.

    Raises:
        KdzooError: for a source that is not there, holds no text, or is none.
    """

    def __init__(self, sources: Sequence[str | Path], *, column: str = COLUMN) -> None:
        if not sources:
            raise KdzooError("no text; name files, or a folder")
        self.column = column
        self.parts: list[Path] = list(chain.from_iterable(_parts(Path(source)) for source in sources))

    def lines(self) -> Iterator[str]:
        """Every line without its end; blank ones, and one after each file or row, end a document.

        Raises:
            KdzooError: for a file without text or with something else; file and line are named.
        """
        for part in self.parts:
            found = False
            for line in _of_dataset(part, self.column) if part.is_dir() else _of_file(part):
                found = found or (not line.isspace() and bool(line))
                yield line
            if not found:
                raise KdzooError(f"{part} holds no text")
            yield ""

    def sha256(self) -> str:
        """Of all of its bytes, in order."""
        files = [path for part in self.parts for path in (sorted(part.rglob("*.arrow")) if part.is_dir() else [part])]
        return hashing.of_values(self.column, hashing.of_files(files, named=False))


def packed(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    folder: Path,
    *,
    pack: bool = True,
    segments: Segments | None = None,
) -> Dataset:
    """Rows of at most ``max_length`` tokens, special tokens among them, with ``sample_ids`` and ``length``.

    The lines of a document follow each other in a row until the next has no room; a line longer than a row is cut into
    several. Without ``pack`` every line has rows of its own.

    For segments ``input_ids`` are a row's lines without special tokens, and ``pieces`` says how many each line has. A
    line longer than half a row may go on in the next row, so that any two have room, and every tenth row is to end
    early, at a random length.

    Args:
        text: what to read.
        tokenizer: the models'.
        max_length: of a row.
        folder: where the rows are kept; the same text is packed once.
        pack: fill the rows.
        segments: makes two segments of a row later, and needs the room for what stands between them.

    Raises:
        KdzooError: for text that cannot be read, or a length that leaves no room for text.
    """
    from datasets import Dataset

    before, after = _special_tokens(tokenizer)
    alone = len(before) + len(after)
    special = alone if segments is None else segments.special
    room = max_length - special
    if room < (1 if segments is None else 2):
        raise KdzooError(f"max_length is {max_length}, which the {special} special tokens fill")
    about = [FORMAT, text.sha256(), max_length, pack, before, after, sorted(tokenizer.get_vocab().items())]
    about += [] if segments is None else [PIECES]

    def build(scratch: Path) -> None:
        rows = _rows(_tokenized(text.lines(), tokenizer), room, pack, segmented=segments is not None)
        _write(scratch, (columns(pieces) for pieces in rows), () if segments is None else (PIECES,))

    def columns(pieces: list[list[int]]) -> dict[str, Any]:
        ids = [*chain(*pieces)]
        whole = [*before, *ids, *after] if segments is None else ids
        length = len(ids) + (special if len(pieces) > 1 else alone)
        return {"input_ids": whole, "length": length, PIECES: [*map(len, pieces)]}

    path = hashing.built_once(folder / f"{hashing.of_values(*about)[:16]}.arrow", build)
    return Dataset.from_file(str(path))


def _write(path: Path, rows: Iterator[dict[str, Any]], more: tuple[str, ...]) -> None:
    """Write an Arrow file of rows with their numbers; ``more`` are further columns of lists."""
    import pyarrow

    number, numbers = pyarrow.int64(), pyarrow.list_(pyarrow.int32())
    lists = dict.fromkeys(("input_ids", *more), numbers)
    schema = pyarrow.schema(lists | {"length": number, "sample_ids": number})
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        written = 0
        while batch := list(islice(rows, LINES)):
            columns: dict[str, Any] = {name: [row[name] for row in batch] for name in (*lists, "length")}
            columns["sample_ids"] = list(range(written, written + len(batch)))
            writer.write_batch(pyarrow.RecordBatch.from_pydict(columns, schema=schema))
            written += len(batch)


def _rows(lines: Iterable[list[int]], room: int, pack: bool, *, segmented: bool = False) -> Iterator[list[list[int]]]:
    """The lines of each row, without special tokens; an empty one ends a document, a long one goes on in the next."""
    most = room // 2 if segmented else room
    draw = random.Random(0)
    row: list[list[int]] = []
    size, target = 0, room
    for line in lines:
        pieces = [line[at : at + most] for at in range(0, len(line), most)] or [[]]
        for number, piece in enumerate(pieces):
            full = size + len(piece) > (target if len(row) > 1 else room)
            if row and (not pack or not piece or full):
                yield row
                row, size = [], 0
            if not row:
                target = draw.randint(2, room) if segmented and draw.random() < SHORT else room
            if row and number:  # of one line, which is one piece of the row
                row[-1] = row[-1] + piece
            elif piece:
                row.append(piece)
            size += len(piece)
    if row:
        yield row


def _tokenized(lines: Iterator[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    while batch := list(islice(lines, LINES)):
        # Longer than a model's input on purpose: rows are cut afterwards.
        yield from tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What stands before and after a row."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
    return whole[:start], whole[start + len(bare) :]


def _parts(source: Path) -> list[Path]:
    if not source.exists():
        raise KdzooError(f"no text at {source}: there is no such file or folder")
    if not source.is_dir():
        check_file(source)
        return [source]
    if (source / "dataset_dict.json").is_file():
        if not (source / "train").is_dir():
            raise KdzooError(f"{source} has no split 'train'; name the folder of one of its splits")
        return [source / "train"]
    if (source / "state.json").is_file():
        return [source]
    files = sorted(path for path in source.rglob("*") if path.name.endswith((".txt", ".txt.gz")) and path.is_file())
    if not files:
        raise KdzooError(f"{source} holds no .txt or .txt.gz files, and datasets.save_to_disk did not write it")
    return files


def _of_file(path: Path) -> Iterator[str]:
    number = 1
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if b"\0" in line:
                    raise KdzooError(f"{path}, line {number}: not text, it holds a zero byte")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise KdzooError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise KdzooError(f"{path} cannot be read: {error}") from None


def _of_dataset(folder: Path, column: str) -> Iterator[str]:
    from datasets import load_from_disk

    try:
        rows: Any = load_from_disk(str(folder))
    except Exception as error:  # a damaged folder shows as an error of arrow, json or the file system
        raise KdzooError(f"{folder}: not readable as a folder saved by datasets ({error})") from None
    if column not in rows.column_names:
        raise KdzooError(f"{folder} has no column {column!r}; it has {', '.join(rows.column_names)}: --text-column")
    for number, document in enumerate(rows[column], 1):
        if not isinstance(document, str):
            raise KdzooError(f"{folder}, row {number}, column {column!r}: expected text, got {document!r}")
        yield from document.splitlines()
        yield ""
