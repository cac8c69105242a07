"""`limbeck init`: a task file from a folder of tables, with the reason for each guess; nothing is overwritten."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limbeck.operations.draft_roles import Draft, from_catalogue, from_gold
from limbeck.operations.draft_tables import Table, Unknown, tables_in
from task.column_names import EXPECTED_QUERY
from task.errors import InputError
from task.files import write_jsonl, write_text
from task.load import load_task
from task.readers import Item

_HEAD_SHARE, _TORSO_SHARE = 10, 2  # of the log: a tenth, a half
_STEPS, _BATCH, _MOST_EPOCHS = 250, 16, 10  # of a training on few rows
_TEST, _CALIBRATION, _LEARNED = ("test", "eval", "gold"), ("calib", "dev", "valid"), ("train", "label")


@dataclass(frozen=True, slots=True)
class Drafted:
    """A drafted task.

    Attributes:
        uses: Key of the task file → table.
        copies: Table → the copy with our names of the columns, where it needs one.
        unused: Files that are not used, with the reason.
        why: The reasons of the roles.
        text: The task file.
    """

    uses: Mapping[str, Table]
    copies: Mapping[Path, Path]
    unused: Sequence[Unknown]
    why: Sequence[Draft]
    text: str


def draft(folder: Path, out: Path, prompt: Path | None = None) -> Drafted:
    """Guess which file is what, and write a task file; tables whose columns have other names are copied beside it.

    Args:
        folder: Of the tables, which stay as they are.
        out: The task file.
        prompt: A Jinja template, for an LLM teacher.

    Raises:
        InputError: A file is there already, the folder holds no queries, or nothing that could label them.
    """
    copies_in = out.with_name(f"{out.stem}-data")
    for path in (out, copies_in):
        if path.exists():
            what = "this" if path == out else "the folder for tables with our names of the columns"
            raise InputError(
                f"{what} is there already, and nothing is overwritten", file=path,
                fix=f"Choose another --out than {out.name}: the folder's name is made of it",
            )
    if prompt is not None and not prompt.is_file():
        raise InputError(
            "no such file", file=prompt, field="--prompt", expected="a Jinja template, such as configs/prompts/label.j2"
        )
    found, unused = tables_in(folder)
    uses, unused = _uses(found, unused)
    if prompt is None:
        unused += _without_lost_labels(uses)
    _check(uses, unused, folder, prompt)
    copies = {t.path: copies_in / f"{key.rpartition('.')[2]}.jsonl" for key, t in uses.items() if not t.as_it_is}
    items = _items(uses.get("data.catalogue"))
    gold = [t.ours(r) for key in ("data.gold.test", "data.gold.calibration", "data.labels") if (t := uses.get(key))
            for r in t.rows]
    labelled = [r for r in gold if isinstance(r.get("labels"), list) and r["labels"]]
    roles = from_gold(labelled, items) if labelled else from_catalogue(items)
    if not roles:
        raise InputError(
            "no role can be proposed: no labels, and a catalogue without brand, category or attributes", file=folder,
            fix="Copy configs/market.yaml and define the roles by hand",
        )
    text = _text(_config(uses, copies, roles, folder=folder, out=out, prompt=prompt), roles, _name(out))
    _try(text, out)
    for table in uses.values():
        if table.path in copies:
            write_jsonl(copies[table.path], table.renamed())
    write_text(out, text)
    return Drafted(uses, copies, unused, roles, text)


def _uses(found: Sequence[Table], unused: Sequence[Unknown]) -> tuple[dict[str, Table], list[Unknown]]:
    """Key of the task file → table; of two tables for one key the first is taken, gold by the words in its name.

    Of two logs that with more of the labelled queries is taken: only queries of the log are labelled.
    """
    uses: dict[str, Table] = {}
    left = list(unused)
    gold = [t for t in found if t.kind == "labels"]
    for table in gold:
        key = _gold_key(table, alone=len(gold) == 1)
        key = key if key not in uses else next((k for k in _GOLD_KEYS if k not in uses), key)
        _take(uses, left, key, table)
    labelled = {str(t.ours(r)["query"]) for t in (uses.get("data.labels"),) if t is not None for r in t.rows}
    for table in sorted(found, key=lambda t: -_labelled_in(t, labelled)):
        if table.kind != "labels":
            _take(uses, left, f"data.{table.kind}", table)
    return uses, left


def _labelled_in(table: Table, labelled: Set[str]) -> int:
    return len({str(table.ours(r)["query"]) for r in table.rows} & labelled) if table.kind == "queries" else 0


_GOLD_KEYS = ("data.gold.test", "data.gold.calibration", "data.labels")


def _gold_key(table: Table, *, alone: bool) -> str:
    name = table.path.name.lower()
    for key, words in zip(reversed(_GOLD_KEYS), (_LEARNED, _CALIBRATION, _TEST), strict=True):
        if any(w in name for w in words):
            return key
    return "data.gold.test" if alone else "data.gold.calibration"


def _take(uses: dict[str, Table], left: list[Unknown], key: str, table: Table) -> None:
    if key in uses:
        left.append(Unknown(table.path, f"{uses[key].path.name} is taken for {key} already"))
    else:
        uses[key] = table


def _without_lost_labels(uses: dict[str, Table]) -> list[Unknown]:
    """Leave the log out where imported labels have queries that it lacks: only queries of the log are labelled.

    Else it is kept beside the labels, for its counts; a query of it that has no labels is skipped.
    """
    log, labels = uses.get("data.queries"), uses.get("data.labels")
    if log is None or labels is None or log.more:
        return []
    known = {str(log.ours(r)["query"]) for r in log.rows}
    lost = sum(str(labels.ours(r)["query"]) not in known for r in labels.rows)
    if not lost:
        return []
    del uses["data.queries"]
    return [Unknown(log.path, (
        f"{lost:,} of {len(labels.rows):,} labelled queries are not in it, and only queries of data.queries are "
        "labelled. Add these, then name it as data.queries, so that its counts are used"
    ))]


def _check(uses: Mapping[str, Table], unused: Sequence[Unknown], folder: Path, prompt: Path | None) -> None:
    if not uses.keys() & {"data.queries", "data.labels"}:
        files = [f"{t.path.name}, taken for {key}" for key, t in uses.items()]
        told = "".join(f"\n  {x}" for x in (*files, *(f"{u.path.name}: {u.why}" for u in unused)))
        raise InputError(
            f"no table of queries to label{told}", file=folder,
            expected=f"a file with {EXPECTED_QUERY}",
        )
    if not uses.keys() & {"data.labels", "data.catalogue"} and prompt is None:
        raise InputError(
            "nothing here can label the queries: neither a catalogue nor labels", file=folder,
            fix="Add one of them, or give --prompt FILE for an LLM; configs/prompts/label.j2 is a template",
        )
    if "data.conversions" in uses and "data.catalogue" not in uses:
        raise InputError(
            "purchases without a catalogue that has their items", file=uses["data.conversions"].path,
            fix="Add the catalogue, or take this file out of the folder",
        )


def _items(table: Table | None) -> list[Item]:
    """The items of a catalogue's first rows, as they will be read."""
    rows = [] if table is None else [table.ours(r) for r in table.rows]
    return [
        Item(str(r.get("id")), str(r.get("title")), _text_or_none(r.get("brand")), _text_or_none(r.get("category")),
             {k: str(v) for k, v in r["attributes"].items()} if isinstance(r.get("attributes"), dict) else {})
        for r in rows
    ]


def _text_or_none(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def _config(
    uses: Mapping[str, Table], copies: Mapping[Path, Path], roles: Sequence[Draft], *, folder: Path, out: Path,
    prompt: Path | None,
) -> dict[str, Any]:
    """The task's sections but for its roles."""
    def name(table: Table) -> str:
        return os.path.relpath(copies.get(table.path, table.path), folder)

    here = out.parent
    data: dict[str, Any] = {"dir": os.path.relpath(folder, here)}
    data |= {k.removeprefix("data."): name(t) for k, t in uses.items() if not k.startswith("data.gold")}
    if gold := {k.removeprefix("data.gold."): name(t) for k, t in uses.items() if k.startswith("data.gold")}:
        data["gold"] = gold
    backend = "openai" if prompt else "labels" if "data.labels" in uses else "catalog"
    if backend == "catalog" and not any("catalogue" in d.role for d in roles):
        raise InputError(
            "no role of the gold labels has its values in the catalogue, so the catalogue cannot label", file=folder,
            fix="Give --prompt FILE for an LLM; configs/prompts/label.j2 is a template",
        )
    teacher: dict[str, Any] = {"backend": backend}
    if prompt:
        teacher["openai"] = {"prompt": os.path.relpath(prompt, here)}
    log = uses.get("data.queries") or uses["data.labels"]
    config: dict[str, Any] = {"data": data, "teacher": teacher}
    if not log.more:  # a log of more rows than were looked at fits the defaults
        head = max(1, len(log.rows) // _HEAD_SHARE)
        config["serving"] = {"head_queries": head}
        epochs = min(_MOST_EPOCHS, -(-_STEPS * _BATCH // max(1, len(log.rows))))
        if epochs > 1:  # one pass over so few rows ends before the learning rate has risen
            config["student"] = {"batch_size": _BATCH, "epochs": epochs}
        config["eval"] = {"head": head, "torso": max(head, len(log.rows) // _TORSO_SHARE)}
    return config


def _name(out: Path) -> str:
    """The name of the task: that of the file, as far as a name may have its characters."""
    return re.sub(r"[^a-z0-9_.-]+", "-", out.stem.lower()).strip("-_.")[:64] or "task"


def _text(config: Mapping[str, Any], roles: Sequence[Draft], name: str) -> str:
    """The task file, with the reason of each role as a comment."""
    lines = [
        "# Drafted by `limbeck init`: look at the roles, then run `limbeck check` on this file.",
        "# docs/task-file.md explains every key.",
        f"name: {name}", "instructions: |", "  Label the words of a search query. Copy values verbatim from the query.",
        "", "roles:",
    ]
    for role in roles:
        lines.append(f"  # {' '.join(role.why.split())}")
        body = yaml.safe_dump(dict(role.role), sort_keys=False, allow_unicode=True, width=100).splitlines()
        lines += [f"  {'- ' if n == 0 else '  '}{line}" for n, line in enumerate(body)]
    for section, values in config.items():
        lines += ["", *yaml.safe_dump({section: values}, sort_keys=False, allow_unicode=True, width=100).splitlines()]
    return "\n".join(lines) + "\n"


def _try(text: str, out: Path) -> None:
    """Load the text as a task, from a file that is gone afterwards: what is written is valid."""
    with tempfile.TemporaryDirectory(prefix="limbeck-init-") as scratch:
        path = Path(scratch) / out.name
        path.write_text(text, encoding="utf-8")
        load_task(path)


def render(drafted: Drafted, out: Path) -> str:
    """What was guessed, and why, and what to do next."""
    lines = ["Tables:"]
    for key, table in drafted.uses.items():
        names = ", ".join(f"{o}" if o == theirs else f"{o} = {theirs}" for o, theirs in table.columns.items())
        rows = f"{'over ' if table.more else ''}{len(table.rows):,} rows"
        lines.append(f"  {table.path.name} is {key}: {table.why} ({rows}; columns {names})")
        if table.attributes:
            lines.append(f"    attributes: {', '.join(table.attributes)}")
        if unread := table.unread:
            why = " (no short texts that items have in common)" if key == "data.catalogue" else ""
            lines.append(f"    not read: {', '.join(unread)}{why}")
        if key in ("data.queries", "data.conversions") and "count" not in table.columns:
            lines.append("    no column of counts was found: every row counts once. Name yours `count` if it has one")
        if table.path in drafted.copies:
            lines.append(f"    copied with our names of the columns to {drafted.copies[table.path]}")
    lines += [f"  {u.path.name} is not used: {u.why}" for u in drafted.unused]
    lines += ["Roles:", *(f"  {d.role['name']} ({d.role.get('kind', 'open')}): {d.why}" for d in drafted.why)]
    return "\n".join([*lines, f"Written: {out}", f"Look at it, then run `limbeck check {out}`"])
