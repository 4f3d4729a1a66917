"""Lists of token ids by the hundred thousand, in little memory."""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload


class TokenLists(Sequence[list[int]]):
    """Lists of token ids, read and appended as a list of lists is; 4 bytes a token and 8 a list, not 40 and 60."""

    def __init__(self, lists: Iterable[Sequence[int]] = ()):
        self._tokens, self._ends = array("i"), array("q", [0])
        self.extend(lists)

    def extend(self, lists: Iterable[Sequence[int]]) -> None:
        """Append lists."""
        for ids in lists:
            self._tokens.extend(ids)
            self._ends.append(len(self._tokens))

    def content(self) -> tuple[bytes, bytes]:
        """All tokens one after the other, and where each list ends, as bytes: for a hash."""
        return self._tokens.tobytes(), self._ends.tobytes()

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
