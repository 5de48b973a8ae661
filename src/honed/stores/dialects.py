"""What a connection says of its store: SQLite or PostgreSQL, and how verdicts become an outcome there."""

from collections.abc import Collection
from typing import Any, Final, cast

import msgspec
from sqlalchemy import ColumnElement, Integer, Table, Text, exists, literal, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from honed.domain.composition import PLAIN, Composition


def is_postgres(db: AsyncConnection) -> bool:
    """Whether the connection leads to a PostgreSQL server."""
    return db.dialect.name == "postgresql"


def composition_of(db: AsyncConnection) -> Composition:
    """How verdicts become an outcome in this store; its connections carry it, as they carry the dialect."""
    found: Composition = db.sync_connection.get_execution_options().get("composition", PLAIN)  # type: ignore[union-attr]
    return found


def upsert(db: AsyncConnection, table: Table) -> sqlite.Insert:
    """An INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if is_postgres(db):
        from sqlalchemy.dialects import postgresql  # 2 MiB that a daemon on SQLite does not need

        # the two have the same methods, but no common type
        return cast(sqlite.Insert, postgresql.insert(table))
    return sqlite.insert(table)


def among(column: ColumnElement[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Whether the column is one of the values, however many they are: they travel as one parameter."""
    listed = _Numbers if isinstance(column.type, Integer) else _Texts
    told = literal(msgspec.json.encode(sorted(values)).decode(), Text)
    return column.op("IN", is_comparison=True)(listed(told))


def absent(
    db: AsyncConnection, column: ColumnElement[Any], of: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Whether no row of another table has the column's value in `of`, which no index covers.

    SQLite makes an index for the length of a NOT IN; PostgreSQL goes through all rows for each one, unless they
    fit into its working memory, and joins by hash for a NOT EXISTS.
    """
    if is_postgres(db):
        return ~exists().where(of == column)
    return ~column.in_(select(of).where(of.is_not(None)))


class _Listed(FunctionElement[Any]):
    """The values of a JSON array, as a subquery."""

    inherit_cache = True
    type_in_postgres: str


class _Numbers(_Listed):
    inherit_cache = True
    type_in_postgres = "BIGINT"


class _Texts(_Listed):
    inherit_cache = True
    type_in_postgres = "TEXT"


_POSTGRES: Final = (
    "(SELECT CAST(value AS {type}) FROM json_array_elements_text(CAST({json} AS JSON)))"
)


@compiles(_Numbers, "sqlite")
@compiles(_Texts, "sqlite")
def _listed_in_sqlite(element: _Listed, compiler: SQLCompiler, **options: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **options)}))"


@compiles(_Numbers, "postgresql")
@compiles(_Texts, "postgresql")
def _listed_in_postgres(element: _Listed, compiler: SQLCompiler, **options: Any) -> str:
    told = compiler.process(element.clauses, **options)
    return _POSTGRES.format(type=element.type_in_postgres, json=told)
