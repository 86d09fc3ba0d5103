"""Test the tables of a store, made new or migrated, and that a run goes on from the store of an older program."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchgen.ledger.migrations import MIGRATIONS
from batchgen.ledger.store import Store
from tests.support.scene import Make, Scene
from tests.support.slow import slow

BEGUN = 1 + next(at for at, statement in enumerate(MIGRATIONS) if statement.startswith("CREATE TABLE stale"))
BILLS = next(at for at, statement in enumerate(MIGRATIONS) if statement.startswith("CREATE TABLE bills"))
AWAITED = next(at for at, statement in enumerate(MIGRATIONS) if "COLUMN awaited_until" in statement)


def made(database: sqlite3.Connection) -> dict[str, str]:
    """The SQL of every table, index and trigger by its name, without comments, quotes and white space.

    SQLite keeps the words of a CREATE statement, and itself changes them when a table is altered.
    """
    rows = database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {f"{kind} {name}": re.sub(r"--[^\n]*|[\s\"]", "", sql) for kind, name, sql in rows}


def version_of(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def test_a_new_store_has_what_all_migrations_lead_to(tmp_path: Path) -> None:
    """Equal columns, types, constraints, indexes and triggers: schema.sql and MIGRATIONS can only change together."""
    paths = tmp_path / "new.sqlite", tmp_path / "migrated.sqlite"
    with closing(sqlite3.connect(paths[1])) as database:
        database.execute(MIGRATIONS[0])
        database.execute("PRAGMA user_version = 1")
    for path in paths:
        Store.open(path).close()
    with closing(sqlite3.connect(paths[0])) as new, closing(sqlite3.connect(paths[1])) as migrated:
        assert version_of(new) == version_of(migrated) == len(MIGRATIONS)
        assert made(new) == made(migrated)
        assert len(made(new)) > 15


def renames(table: str, version: int) -> tuple[str, dict[str, str]]:
    """The present names of a table of this version and of its columns; NULL for a removed column."""
    columns: dict[str, str] = {}
    for statement in MIGRATIONS[version:]:
        if found := re.fullmatch(rf"ALTER TABLE {table} RENAME COLUMN (\w+) TO (\w+)", statement):
            columns[found[1]] = found[2]
        elif found := re.fullmatch(rf"ALTER TABLE {table} DROP COLUMN (\w+)", statement):
            columns[found[1]] = "NULL"
        elif found := re.fullmatch(rf"ALTER TABLE {table} RENAME TO (\w+)", statement):
            table = found[1]
    return table, columns


def older(store: Path, version: int) -> None:
    """Convert the store of a run to this older version."""
    path = store.with_name("older.sqlite")
    with closing(sqlite3.connect(path)) as database:
        triggers = [statement for statement in MIGRATIONS[:version] if statement.startswith("CREATE TRIGGER")]
        for statement in MIGRATIONS[:version]:
            if statement not in triggers:
                database.execute(statement)
        database.execute("ATTACH ? AS now", (str(store),))
        tables = database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            renamed, names = renames(table, version)
            columns = [row[1] for row in database.execute(f"PRAGMA main.table_info({table})")]
            present = ", ".join(names.get(column, column) for column in columns)
            database.execute(f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {present} FROM now.{renamed}")  # noqa: S608 - a schema's own names
        for statement in triggers:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    path.replace(store)


def told(scene: Scene) -> dict[str, Any]:
    """All output about a run, without times that pass."""
    found = {name: scene.bench.run(name, "--json").json for name in ("status", "receipt")}
    for batch in found["status"]["batches"]:
        del batch["age_seconds"]
    return found


@pytest.mark.parametrize("version", [BEGUN, *map(slow, (*range(BEGUN + 1, BILLS + 1), AWAITED))])
@pytest.mark.slow
def test_a_run_goes_on_from_the_store_of_an_older_program(version: int, make_bench: Make) -> None:
    """The output is the same before and after a tick. One row fails and is retried, one is blocked."""
    scene = Scene.of(make_bench, 6, most=3, job_seconds=30.0)
    scene.bench.service.faults.rows("truncated", key=r"r1-000002.*question.*a1")
    scene.bench.service.faults.rows("blocked_prompt", key=r"r1-000005.*answer")
    for _ in range(4):
        scene.tick(60)
    scene.run("collect")  # its jobs are polled, and are running
    before = told(scene)
    assert before["receipt"]["total"]["usd"] > 0
    older(scene.bench.root / "data" / "batchgen.sqlite", version)
    assert told(scene) == before
    assert scene.bench.run("collect").code == 0  # no job has ended since
    assert told(scene) == before
    scene.finish()


@pytest.mark.usefixtures("drawn_here")
@pytest.mark.parametrize("version", [BEGUN, slow(AWAITED)])
@pytest.mark.slow
def test_a_report_of_the_store_of_an_older_program(version: int, make_bench: Make) -> None:
    """A finished run has no further tick that could migrate it."""
    scene = Scene.of(make_bench, 2)
    scene.finish()
    older(scene.bench.root / "data" / "batchgen.sqlite", version)
    result = scene.run("report")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(str(scene.bench.root / "data" / "report.html"))
