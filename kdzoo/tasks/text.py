"""Unlabelled text for general distillation: read from files or a datasets folder, and packed into rows of tokens.

A line is a sentence or a paragraph; a blank line ends a document. Rows are kept in an Arrow file and read
memory-mapped, so that the text may be larger than the memory.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo import hashing
from kdzoo.errors import KdzooError
from kdzoo.tasks.reading import check_file

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FORMAT = "1"
COLUMN = "text"
LINES = 1000  # tokenised at a time


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
    text: Text, tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path, *, pack: bool = True
) -> Dataset:
    """Rows of at most ``max_length`` tokens, special tokens among them, with ``sample_ids`` and ``length``.

    The lines of a document follow each other in a row until the next has no room; a line longer than a row is cut into
    several. Without ``pack`` every line has rows of its own.

    Args:
        text: what to read.
        tokenizer: the models'.
        max_length: of a row.
        folder: where the rows are kept; the same text is packed once.
        pack: fill the rows.

    Raises:
        KdzooError: for text that cannot be read, or a length that leaves no room for text.
    """
    from datasets import Dataset

    before, after = _special_tokens(tokenizer)
    room = max_length - len(before) - len(after)
    if room < 1:
        raise KdzooError(f"max_length is {max_length}, which the {len(before) + len(after)} special tokens fill")
    about = [FORMAT, text.sha256(), max_length, pack, before, after, sorted(tokenizer.get_vocab().items())]

    def build(scratch: Path) -> None:
        rows = _rows(_tokenized(text.lines(), tokenizer), room, pack)
        _write(scratch, ([*before, *row, *after] for row in rows))

    path = hashing.built_once(folder / f"{hashing.of_values(*about)[:16]}.arrow", build)
    return Dataset.from_file(str(path))


def _write(path: Path, rows: Iterator[list[int]]) -> None:
    """Write an Arrow file of rows."""
    import pyarrow

    number = pyarrow.int64()
    schema = pyarrow.schema({"input_ids": pyarrow.list_(pyarrow.int32()), "length": number, "sample_ids": number})
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        written = 0
        while ids := list(islice(rows, LINES)):
            places = list(range(written, written + len(ids)))
            columns = {"input_ids": ids, "length": list(map(len, ids)), "sample_ids": places}
            writer.write_batch(pyarrow.RecordBatch.from_pydict(columns, schema=schema))
            written += len(ids)


def _rows(lines: Iterable[list[int]], room: int, pack: bool) -> Iterator[list[int]]:
    """Token ids of rows without special tokens, from those of lines; an empty line ends a document."""
    row: list[int] = []
    for line in lines:
        if row and (not pack or not line or len(row) + len(line) > room):
            yield row
            row = []
        while len(line) > room:
            yield line[:room]
            line = line[room:]
        row = row + line
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
