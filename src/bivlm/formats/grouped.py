"""Weights whose columns are in groups with numbers of their own: they can be cut at any row, and between
groups.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

from bivlm.formats.base import QuantizedWeight
from bivlm.formats.encoding.checks import check_slice, columns_slice


class GroupedWeight(QuantizedWeight):
    """A weight with groups of `group_size` columns, the last of which may be shorter."""

    group_size: int

    def slice_rows(self, start: int, stop: int) -> Self:
        check_slice("rows", start, stop, self.shape[0], 1)
        return self._part(slice(start, stop), slice(0, self.shape[1]), slice(None), self.group_size)

    def slice_columns(self, start: int, stop: int) -> Self:
        groups, group_size = columns_slice(start, stop, self.shape[1], self.group_size)
        return self._part(slice(0, self.shape[0]), slice(start, stop), groups, group_size)

    @abstractmethod
    def _part(self, rows: slice, columns: slice, groups: slice, group_size: int) -> Self:
        """The weights of some rows and columns, whose groups of columns are `groups`."""
