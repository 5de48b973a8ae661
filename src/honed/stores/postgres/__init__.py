"""The same store on a PostgreSQL server: how it is reached, its schema, its hot path, its upkeep.

Transactions that write take one advisory lock of the store, as those of SQLite take the file's: what
reads first and writes later needs no further thought. asyncpg is imported when it is needed.
"""
