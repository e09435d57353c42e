"""Questions to evidence in SQL, answered by duckdb over one flat table: a row of it is a row of evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refarch.errors import UnknownNameError, UsageError, did_you_mean
from refarch_compare.evidence.row import Row

if TYPE_CHECKING:
    import duckdb

TABLE = "evidence"
"""The table's name in SQL."""
OPTION = "option_"
"""What the names of columns that hold a technique's options begin with."""
_NESTED = ("options", "task_options", "measures", "specs")


def flat(row: Row) -> dict[str, Any]:
    """A row as plain values by column: fields, ``problem``, ``imported``, options (``option_rank``), measures."""
    values = {name: getattr(row, name) for name in Row.model_fields if name not in _NESTED}
    values |= {"label": row.name, "problem": row.problem, "imported": row.imported}
    for name, value in row.options.items():
        values[OPTION + name] = json.dumps(value) if isinstance(value, (list, tuple, dict)) else value
    for name, number in row.measures.items():
        values.setdefault(name, number)  # a field of the row wins over a measure of its name
    return values


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The table by column; None where a row has no such value."""
    table = [flat(row) for row in rows]
    names = dict.fromkeys(name for values in table for name in values)
    return {name: _one_type([values.get(name) for values in table]) for name in names}


def _one_type(values: list[Any]) -> list[Any]:
    """Text for all where types differ: two techniques may have options of one name."""
    kinds = {float if type(value) is int else type(value) for value in values if value is not None}
    return values if len(kinds) < 2 else [None if value is None else str(value) for value in values]


def select(rows: Sequence[Row], where: str | None = None, sort: str | None = None) -> list[Row]:
    """The rows for which an SQL condition holds.

    Args:
        rows: the evidence.
        where: a condition on the table's columns, such as ``technique = 'lora' and score > 0.8``.
        sort: columns to order by, such as ``score desc, technique``.

    Raises:
        UnknownNameError: there is no such column; names the nearest.
        UsageError: it is not SQL.
    """
    if not rows or (where is None and sort is None):
        return list(rows)
    connection, names = _table(rows)
    position = "__position"
    relation = connection.table(TABLE)
    try:
        if where is not None:
            relation = relation.filter(where)
        if sort is not None:
            relation = relation.order(f"{sort}, {position}")
        return [rows[int(found[0])] for found in relation.project(position).fetchall()]
    except Exception as error:
        raise _explained(error, where or sort or "", names) from None


def ask(rows: Sequence[Row], sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The answer to a whole query on the table ``evidence``: its columns' names and its rows.

    Raises:
        UnknownNameError: there is no such column; names the nearest.
        UsageError: it is not SQL, or not a query.
    """
    connection, names = _table(rows)
    try:
        relation = connection.sql(sql)
        if relation is None:
            raise UsageError(f"{sql!r} is no query", f"begin with SELECT ... FROM {TABLE}")
        return list(relation.columns), relation.fetchall()
    except UsageError:
        raise
    except Exception as error:
        raise _explained(error, sql, names) from None


def _table(rows: Sequence[Row]) -> tuple[duckdb.DuckDBPyConnection, list[str]]:
    """A connection that holds the table and can reach nothing else: no files, no network, no settings."""
    import duckdb
    import pandas

    data = columns(rows)
    frame = pandas.DataFrame({name: pandas.Series(values).convert_dtypes() for name, values in data.items()})
    frame.insert(0, "__position", range(len(rows)))
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.register("__frame", frame)
    connection.execute(f"CREATE TABLE {TABLE} AS SELECT * FROM __frame")
    connection.unregister("__frame")
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection, list(data)


def _explained(error: Exception, text: str, names: list[str]) -> UsageError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    column = re.search(r'column "([^"]+)"', first)
    table = re.search(r"Table with name (\S+) does not exist", first)
    if column and "not found" in first:
        return UnknownNameError(f"{text}: evidence has no column {column[1]!r}", did_you_mean(column[1], names))
    if table:
        return UnknownNameError(f"{text}: there is no table {table[1]!r}", f"the only table is {TABLE!r}")
    return UsageError(
        f"{text}: {first}",
        "write SQL: text in single quotes, names with spaces in double quotes; for example"
        " technique = 'lora' and \"valid accuracy\" > 0.4",
    )
