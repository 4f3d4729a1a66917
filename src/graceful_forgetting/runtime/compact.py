"""Lists of token ids and rows by the hundred thousand, in little memory: in nameless files where there is a folder."""

import hashlib
import io
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, overload
from weakref import finalize

import pyarrow
from datasets import Dataset, DatasetInfo, Features
from datasets.table import InMemoryTable


def _nameless_file(owner: object, folder: str | Path | None) -> IO[bytes]:
    """A file in `folder` that ends with its last reader, however that ends; in memory without a folder."""
    if folder is None:
        return io.BytesIO()
    Path(folder).mkdir(parents=True, exist_ok=True)
    file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (its owner closes it)
    finalize(owner, file.close)
    return file


def _content(file: IO[bytes]) -> memoryview:
    """What was written: of a file mapped, so that it takes no memory of the process."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer()
    file.flush()
    return memoryview(mmap(file.fileno(), 0, access=ACCESS_READ) if file.tell() else b"")


class TokenLists(Sequence[list[int]]):
    """Lists of token ids, read and appended as a list of lists is; 4 bytes a token and 8 a list, not 40 and 60.

    Args:
        lists: the first ones.
        folder: where the tokens lie, so that 8 bytes a list are left in memory; None: in memory.
    """

    def __init__(self, lists: Iterable[Sequence[int]] = (), folder: str | Path | None = None):
        self._file, self._ends = _nameless_file(self, folder), array("q", [0])
        self._mapped: memoryview | None = None
        self.extend(lists)

    def extend(self, lists: Iterable[Sequence[int]]) -> None:
        """Append lists."""
        # What is mapped cannot grow.
        self._mapped = None
        for ids in lists:
            self._file.write(array("i", ids))
            self._ends.append(self._ends[-1] + len(ids))

    @property
    def _tokens(self) -> memoryview:
        if self._mapped is None:
            self._mapped = _content(self._file).cast("i")
        return self._mapped

    def content(self) -> tuple[memoryview, memoryview]:
        """All tokens one after the other, and where each list ends: for a hash."""
        return self._tokens, memoryview(self._ends)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._tokens[self._ends[place] : self._ends[place + 1]].tolist()


class RowWriter:
    """Rows of a data set, written a part at a time and read together.

    Args:
        features: of the rows.
        folder: where they lie; None: in memory.
    """

    def __init__(self, features: Features, folder: str | Path | None = None):
        self._features, self._file = features, _nameless_file(self, folder)
        self._writer = pyarrow.ipc.new_stream(self._file, features.arrow_schema)

    def write(self, rows: pyarrow.Table) -> None:
        """The next rows; their columns have the types of the features."""
        schema = self._features.arrow_schema
        # Rows that were looked up one by one are as many chunks, of which each takes more memory than a row.
        columns = [rows[name].combine_chunks() for name in schema.names]
        self._writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))

    def rows(self) -> Dataset:
        """All of them; none can follow."""
        self._writer.close()
        content = _content(self._file)
        table = pyarrow.ipc.open_stream(pyarrow.py_buffer(content)).read_all()
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        return Dataset(InMemoryTable(table), info=DatasetInfo(features=self._features), fingerprint=fingerprint)
