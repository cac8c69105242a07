"""`limbeck forget`: take a query out of everything that services and runs keep, and say what was made from it.

Two queries are the same if v1 of the normaliser takes them for equal, as caches do: letters, spaces and typography do
not matter. Every step can be repeated, and one that was killed leaves nothing half-removed: running the command again
does the rest.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from limbeck.artefacts import RunFolder
from limbeck.operations.rows_with_query import Same, count, holders, mentions, remove
from limbeck.rounds.folders import ROUNDS, round_folders, rounds_page
from task.errors import InputError
from task.normalize import NORMALISERS

# Stages of rows: the query can be taken out of what they wrote.
_CLEANED: Final = ("picks", "label", "curriculum")
_LEARNED: Final = ("train", "merge")
_NOT_HELD: Final = (*_CLEANED, ROUNDS, "console")  # folders that are looked into by themselves
_TABLES: Final = frozenset({".jsonl", ".parquet"})
_UNFINISHED: Final = ("is unfinished now", "would be unfinished")  # after the command, and after a dry run


@dataclass(slots=True)
class Forgotten:
    """What `forget` did, or would do.

    Attributes:
        removed: Place → number of rows, attempts or answers.
        held: Place → why it still holds the query, and what to do.
        inferred: Places of `held` in which nothing was found: stages without a manifest, which a command that was
            stopped may have left, what was made from them, and an index, which has words of every query.
    """

    removed: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    inferred: set[str] = field(default_factory=set, compare=False)

    def remove(self, place: str, number: int) -> None:
        """Note what was removed from a place; nothing is not noted."""
        if number:
            self.removed[place] = self.removed.get(place, 0) + number

    def infer(self, place: str, why: str) -> None:
        """Note a place that holds the query if any other does."""
        self.held[place] = why
        self.inferred.add(place)


def same_as(query: str) -> Same:
    """Whether a text is this query.

    Raises:
        InputError: It has no text.
    """
    normalise = NORMALISERS["v1"]
    wanted = normalise(query)
    if not wanted:
        raise InputError("the query has no text", field="--query", found=query, expected="the query to be forgotten")
    return lambda text: normalise(text) == wanted


def forget(
    query: str, *, states: Sequence[Path], runs: Sequence[Path], tables: Sequence[Path] = (), dry_run: bool = False
) -> Forgotten:
    """Forget a query.

    Args:
        states: State folders of services, which may be running.
        runs: Run folders, in which nothing may be running.
        tables: What these runs read; they are the user's, and only looked at.
        dry_run: Change nothing.

    Raises:
        InputError: A folder is not such a one, a labelling job is writing a ledger, or a file cannot be written.
    """
    same, out = same_as(query), Forgotten()
    for state in states:
        if not any((state / name).exists() for name in ("wanted.json", "store.sqlite", "query.key")):
            raise InputError("not the state folder of a service", file=state, field="--state")
    for run in runs:
        if not is_run(run):
            raise InputError("not a run folder", file=run, expected="a ledger, or the folder of a stage")
    for state in states:
        _forget_state(state, query, same, out, dry_run=dry_run)
    for run in runs:
        _forget_run(RunFolder(run), query, same, out, dry_run=dry_run)
    for table in tables:
        if rows := _count_rows(table, _is_about(query, same, None)):
            out.held[str(table)] = f"has {rows:,} rows about it: remove them, or the next run labels it again"
    if not out.removed and out.held.keys() <= out.inferred:
        out.held.clear()
    return out


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return any((folder / name).exists() for name in ("ledger.sqlite", "label", "curriculum"))


# -- a service ----------------------------------------------------------------------------------------------------


def _forget_state(state: Path, query: str, same: Same, out: Forgotten, *, dry_run: bool) -> None:
    from serving.routing.kept_answers import Store, kept_of
    from serving.telemetry.kept_files import KeptFiles
    from serving.telemetry.query_key import FILE

    files = KeptFiles(state)
    hashed = files.key.hash(query) if not dry_run or (state / FILE).exists() else None
    if not dry_run:
        files.note_forgotten(query, now=time.time())  # first: from here on no process writes what it has in memory
    drop = _is_about(query, same, hashed)
    for path in files.files():
        place = path if path.parent == state else path.parent
        out.remove(str(place), files.count(path, drop) if dry_run else files.remove(path, drop))
    store = state / "store.sqlite"
    if store.exists():
        try:
            if dry_run:
                out.remove(str(store), kept_of(store, query))
            else:
                assert hashed is not None
                opened = Store(store, ttl_s=0.0, max_rows=1)
                out.remove(str(store), opened.forget(query, keyed_hash=hashed))
                opened.close()
        except sqlite3.Error as error:
            raise InputError(
                f"cannot be changed: {error}", file=store, fix="Run the same command again; the service may go on"
            ) from error
    for bundle in sorted((state / "bundles").glob("*")):
        if any(holders(bundle, query, same)):
            out.held[str(bundle)] = (
                "the bundle that is served was made with it. No cache answers it any more; make the bundle again from "
                "a run without it, and release that"
            )


def _is_about(query: str, same: Same, hashed: str | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row of a state folder is about the query: by its text, its keyed hash, or the plain hash of before."""
    plain = {hashlib.sha256(q.encode(errors="replace")).hexdigest() for q in (query, NORMALISERS["v1"](query))}

    def found(row: Mapping[str, Any]) -> bool:
        text = row.get("query")
        if isinstance(text, str) and same(text):
            return True
        return (hashed is not None and row.get("keyed_hash") == hashed) or row.get("sha256") in plain

    return found


def _count_rows(path: Path, drop: Callable[[Mapping[str, Any]], bool]) -> int:
    from task.table_files import rows_of

    return sum(drop(row) for _, row in rows_of(path))


# -- a run --------------------------------------------------------------------------------------------------------


def _forget_run(run: RunFolder, query: str, same: Same, out: Forgotten, *, dry_run: bool) -> None:
    known = _forget_ledger(run.ledger, same, out, dry_run=dry_run) if run.ledger.exists() else 0
    _forget_console(run.folder / "console", same, out, known=known > 0, dry_run=dry_run)
    _forget_stages(run, query, same, out, command="limbeck run TASK", ended=False, dry_run=dry_run)
    for one in round_folders(run.folder):
        ended = one.outcome.exists()
        _forget_stages(one, query, same, out, command="limbeck round TASK", ended=ended, dry_run=dry_run)
    page = rounds_page(run.folder)
    if page.exists() and mentions(page, query):
        out.remove(str(page), 1)
        if not dry_run:
            page.unlink()


def _forget_console(folder: Path, same: Same, out: Forgotten, *, known: bool, dry_run: bool) -> None:
    """Take the query out of what a console keeps beside the ledger: predictions, and the index of labels.

    The index has the words of every query. It is removed as a whole; a console makes it again from the ledger.

    Args:
        known: Whether the ledger had the query.
    """
    for path in _tables(folder):
        out.remove(str(path), count(path, same) if dry_run else remove(path, same))
    index = sorted(folder.glob("labels.sqlite*")) if known else []
    if index:
        out.remove(f"{folder / 'labels.sqlite'} (made again by the console)", 1)
        for file in () if dry_run else index:
            file.unlink(missing_ok=True)


def _forget_stages(
    run: RunFolder, query: str, same: Same, out: Forgotten, *, command: str, ended: bool, dry_run: bool
) -> None:
    """Take the query out of the stages of a run, or of a round.

    Args:
        command: What makes a stage again.
        ended: Nothing does: the next round goes on with the rows that are left.
    """
    learned = False
    for stage in _CLEANED:
        folder = run.folder / stage
        touched = _forget_stage(folder, query, same, out, ended=ended, dry_run=dry_run) if folder.exists() else False
        if touched and not ended:
            out.infer(str(folder), f"{_UNFINISHED[0]}: `{command}` makes it again, from the ledger at no cost")
        learned |= touched and stage == "curriculum"
        for name in ("tmp", "old", "copy"):  # of an attempt that was stopped
            left = folder.with_name(f".{stage}.{name}")
            if rows := sum(count(p, same) for p in _tables(left)):
                out.remove(str(left), rows)
                if not dry_run:
                    shutil.rmtree(left)
    again = (
        "the next `limbeck round TASK --set rounds.start=scratch` trains one without it" if ended
        else f"`{command}` trains it again"
    )
    for folder in sorted(p for p in run.folder.iterdir() if p.is_dir() and p.name not in _NOT_HELD):
        _note_held(folder, query, same, out, again=again if learned else None)


def _forget_ledger(path: Path, same: Same, out: Forgotten, *, dry_run: bool) -> int:
    """Take the query out of a ledger; returns how many rows it had of it."""
    from teacher.ledger.forgetting import forget as forget_in_ledger

    found = forget_in_ledger(path, same, dry_run=dry_run)
    out.remove(f"{path} (rows)", found.rows)
    out.remove(f"{path} (attempts, with raw replies)", found.attempts)
    out.remove(f"{path} (contexts of other queries)", found.contexts)
    out.remove(f"{path} (decisions of people)", found.decisions)
    if found.batches:
        out.held[f"{path} (batches)"] = (
            f"{found.batches} open batches at the provider have requests about it: collect them with `limbeck label`, "
            "then run this command again"
        )
    return found.rows


def _forget_stage(folder: Path, query: str, same: Same, out: Forgotten, *, ended: bool, dry_run: bool) -> bool:
    """Take the query out of the tables of a stage; returns whether it was in there.

    Its manifest goes first: a stage whose files have changed must not look finished, wherever this is stopped. In a
    round that has ended it stays: nothing makes the stage again, and the list of rounds reads its figures.
    """
    manifest = folder / "manifest.json"
    tables = [p for p in _tables(folder) if count(p, same)]
    if not tables and (manifest.exists() or ended):
        return False
    if not dry_run and not ended:
        manifest.unlink(missing_ok=True)
    for path in tables:
        out.remove(str(path), count(path, same) if dry_run else remove(path, same))
    for path in list(holders(folder, query, same)):
        if path.suffix not in _TABLES and path != manifest:  # pages that show samples of rows
            out.remove(str(path), 1)
            if not dry_run:
                path.unlink()
    return True


def _tables(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in _TABLES and p.is_file()) if folder.exists() else []


def _note_held(folder: Path, query: str, same: Same, out: Forgotten, *, again: str | None) -> None:
    """What else of a run holds the query, or was made from it.

    Args:
        again: How a student is trained without it; None where none was trained on it.
    """
    if folder.name in _LEARNED and again is not None:
        out.infer(str(folder), f"the student was trained on it: {again}")
    elif folder.name == "index":
        out.infer(
            str(folder), "has embeddings and words of all queries: remove the folder, which the label stage makes again"
        )
    elif found := list(holders(folder, query, same)):
        files = ", ".join(str(p.relative_to(folder)) for p in found[:3]) + (", …" if len(found) > 3 else "")
        sure = any(p.suffix in _TABLES or p.name == "cache.json" for p in found)
        out.held[str(folder)] = f"{'holds' if sure else 'may hold'} it ({files}): make it again"


def shown(query: str, found: Forgotten, *, dry_run: bool) -> str:
    """What a person is told."""
    from task.text import printable

    did = "would be removed" if dry_run else "removed"
    lines = [f"{printable(query)!r}: " + (did if found.removed else "nothing is kept of it")]
    lines += [f"  {number:,} {printable(place)}" for place, number in found.removed.items()]
    if found.held:
        lines.append("made from it, or still holding it:")
        tense = _UNFINISHED if dry_run else _UNFINISHED[:1]
        lines += [f"  {printable(place)}: {why.replace(tense[0], tense[-1])}" for place, why in found.held.items()]
    lines.append(
        "not looked at: tables that runs read, unless TASK is given; exported files; backups; bundles kept beside a "
        "release pointer, of which the next two releases remove those of before"
    )
    return "\n".join(lines)
