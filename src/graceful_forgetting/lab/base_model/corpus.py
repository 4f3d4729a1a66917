"""Reading documents from files of any size, one at a time."""

import io
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".txt", ".txt.xz", ".jsonl", ".jsonl.xz")
END_OF_DOCUMENT = "<|endoftext|>"
# Longer documents are read in pieces of about this many characters, cut at the end of a line, to bound memory.
_PIECE = 1 << 20


def text_files(argument: str, paths: Sequence[str]) -> list[Path]:
    """The text files among `paths` and in the folders among them, each once, in order.

    Args:
        argument: name of the setting that holds the paths, for messages.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a file of another kind, a folder without any text file.
    """
    files: list[Path] = []
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
            if not found:
                raise ValueError(f"{argument}: the folder {name!r} holds no file that ends in {', '.join(SUFFIXES)}")
        elif not path.exists():
            raise FileNotFoundError(f"{argument}: there is no file or folder {name!r}")
        elif not path.name.endswith(SUFFIXES):
            raise ValueError(f"{argument}: {name!r} is not text that can be read; it must end in {', '.join(SUFFIXES)}")
        else:
            found = [path]
        files += [file for file in found if file not in files]
    return files


def read_documents(file: Path) -> Iterator[str]:
    """The documents of one file, without surrounding white space; empty ones are skipped.

    Text is divided by lines that read `<|endoftext|>`; a JSON line is a document: its `text`, or its `prompt` and
    `completion` joined.

    Raises:
        ValueError: a file that is not UTF-8 or not valid xz, a JSON line without text; names file and line.
    """
    documents = _json_documents if ".jsonl" in file.suffixes[-2:] else _text_documents
    try:
        with (
            lzma.open(file, "rb") if file.suffix == ".xz" else file.open("rb") as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig") as lines,
        ):
            for document in documents(file, lines):
                if document := document.strip():
                    yield document
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}); save it as UTF-8") from error
    except (lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{file} is not a complete xz file ({error}); compress it again") from error


def _text_documents(_file: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    piece: list[str] = []
    length = 0
    # A bound on what is read at once, for files without line ends.
    while line := lines.readline(_PIECE):
        if line.strip() == END_OF_DOCUMENT or length >= _PIECE:
            yield "".join(piece)
            piece, length = [], 0
        if line.strip() != END_OF_DOCUMENT:
            piece.append(line)
            length += len(line)
    yield "".join(piece)


def _json_documents(file: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number} is not valid JSON ({error})") from error
        columns = ("text",) if isinstance(row, dict) and "text" in row else ("prompt", "completion")
        if not isinstance(row, dict) or not all(isinstance(row.get(column), str) for column in columns):
            raise ValueError(f"{file}:{number} has no text: a row needs `text`, or `prompt` and `completion`")
        yield "".join(row[column] for column in columns)
