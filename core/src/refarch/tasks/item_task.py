"""What tasks on tables share: options, examples read from a source and checked, splits made where there are none."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from refarch.architecture import Option, validate_options
from refarch.tasks.splits import Selectable, parted
from refarch.tasks.task import Task


class SourceSplit(Selectable, Protocol):
    """Examples that know where they are from."""

    @property
    def source(self) -> str:
        """The file or data set, for messages."""


S = TypeVar("S", bound=SourceSplit)


class ItemTask(Task, Generic[S]):
    """A task whose data are splits of examples, those that its source lacks made from the train rows by
    :data:`refarch.SPLIT_OPTIONS`, which must be among its options.

    A subclass declares the options and says what the source holds, what belongs together, and what is kept in
    proportion.

    Args:
        options: by name; those left out get their defaults.

    Raises:
        SpecError: a misspelt option or a wrong value.
    """

    declared: ClassVar[tuple[Option, ...]]
    """The options that it has."""

    def __init__(self, **options: Any) -> None:
        self.options = validate_options(self.declared, options, type(self).__name__)
        self._splits: dict[str, S] | None = None

    @abc.abstractmethod
    def given(self) -> Mapping[str, S]:
        """The splits that the source has, ``train`` among them, read and checked; see
        :func:`refarch.tasks.read_source`.

        Raises:
            UsageError: no source is named.
            DataError: a file or data set is missing or malformed; names the file and the line.
        """

    @abc.abstractmethod
    def groups(self, examples: S) -> Sequence[Hashable]:
        """What each example belongs to. Those of a group are never parted by a split that is made here."""

    def labels(self, examples: S) -> Sequence[str]:
        """What made splits and limits keep in proportion; the same for all unless a task says otherwise."""
        return [""] * len(examples)

    def read(self, seed: int) -> None:
        """Read and check the data, and make the missing splits.

        Args:
            seed: used where the option ``split_seed`` is not set.
        """
        self._splits = self.parted(self.given(), seed)

    @property
    def splits(self) -> dict[str, S]:
        """The splits that the task works with: ``train`` and ``test``, and ``validation`` unless there is none.

        Raises:
            RuntimeError: :meth:`read` was not called.
        """
        if self._splits is None:
            raise RuntimeError("the data are not read yet; call read(seed) first")
        return self._splits

    def parted(self, given: Mapping[str, S], seed: int) -> dict[str, S]:
        """The splits to work with, of those that the source has.

        Raises:
            DataError: there are too few rows for a test split.
        """
        where = given["train"].source
        return parted(given, self.options, seed, groups=self.groups, labels=self.labels, where=where)
