"""The tables of a task's `data` section, and their fingerprints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from task.errors import InputError, warn
from task.files import sha256_file, sha256_json
from task.hub_tables import dataset_files, split_of
from task.labels import Example
from task.readers import Conversion, Item, read_catalogue, read_conversions, read_labels, read_queries
from task.spec import Data, Task
from task.table_files import files_of
from teacher.backends.job import Sources
from teacher.ledger.reviews import Verdict, audited, digest, gold_with, read_verdicts

_Row = TypeVar("_Row")
_LOOKED_ABOVE = 3  # folders above `data.dir`; the task file mostly lies in one of them


class Inputs:
    """The tables of a task, read when first asked for."""

    def __init__(self, task: Task, sample: Path, ledger: Path | None = None) -> None:
        """Read nothing yet.

        Args:
            sample: Folder of the generated market, for a task that asks for one.
            ledger: Where people's decisions about labels are; None without any.
        """
        self.task, self._sample, self._ledger = task, sample, ledger

    def source(self, name: str) -> Path | str | None:
        """Where a table is: a path, `hub:NAME:SPLIT`, or None.

        Args:
            name: `queries`, `labels`, `catalogue`, `conversions`, `outliers`, `calibration` or `test`.
        """
        data: Data = self.task.data
        if data.sample:
            from samples.market.generate import FILES

            return self._sample / FILES[name] if name in FILES else None
        holder: object = data.gold if name in {"calibration", "test"} else data
        given: str | None = getattr(holder, name)
        return None if given is None else self._place(given)

    def _place(self, given: str) -> Path | str:
        data = self.task.data
        if data.dir is None:
            return f"hub:{data.hub}:{split_of(given)}"
        return data.dir / given

    @property
    def has_traffic(self) -> bool:
        """Whether the log has query counts."""
        return len({q.count for q in self.teacher.log}) > 1

    @functools.cached_property
    def annotations(self) -> list[list[Example]]:
        """Labels of the test queries by each annotator."""
        return [read_labels(s, self.task) for s in self.annotation_sources]

    @property
    def annotation_sources(self) -> list[Path | str]:
        """Where the annotators' labels are."""
        return [self._place(a) for a in self.task.data.gold.annotations]

    def fingerprint(self, *names: str) -> str:
        """SHA-256 over tables.

        Args:
            names: Of `source`; `annotations` are the annotators' labels.
        """
        found = {n: _digest(s) for n in names if n != "annotations" and (s := self.source(n)) is not None}
        if "annotations" in names:
            found |= {f"person {i}": _digest(s) for i, s in enumerate(self.annotation_sources)}
        for name in {"calibration", "test"} & set(names):
            if decided := self._decided_gold(name):
                found[f"decided {name}"] = digest(decided)
        return sha256_json(found)

    @functools.cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Query → what people decided about its labels."""
        return {} if self._ledger is None else read_verdicts(self._ledger)

    def _decided_gold(self, name: str) -> list[Verdict]:
        """Decisions that change the gold rows of a table."""
        if not self.verdicts:
            return []
        known = {x.query for x in self._gold(name)}
        other = {x.query for x in self._gold("calibration")} if name == "test" else set()
        return [
            v for q, v in self.verdicts.items() if q in known or (name == "test" and v.gold and q not in other)
        ]

    @functools.cached_property
    def teacher(self) -> Sources:
        """What the teacher may use: never the labels of the gold test rows."""
        data, labels = self.task.data, self.labels
        log = self.queries or [Example(x.query, (), x.count, x.id) for x in labels]
        if labels and data.queries and self.task.teacher.backend != "labels":
            warn(
                "these labels are not used", field="data.labels", found=data.labels,
                expected=f"teacher.backend `labels`, not `{self.task.teacher.backend}`", fix="Leave out data.labels",
            )
        self._check_fields(self.catalogue)
        print_ = self.fingerprint("queries", "catalogue", "conversions")
        return Sources(
            log, self.catalogue, self.conversions, imported=labels, calibration=self.calibration,
            held_out=self._held_out(), test_queries=[Example(e.query) for e in self.judged], fingerprint=print_,
        )

    @functools.cached_property
    def queries(self) -> list[Example]:
        """The query log; empty where the task has labels alone."""
        return self._read("queries", read_queries)

    @functools.cached_property
    def labels(self) -> list[Example]:
        """Imported labels."""
        return self._read("labels", lambda s: read_labels(s, self.task, conflicts=self.task.data.conflicts))

    @functools.cached_property
    def catalogue(self) -> list[Item]:
        """The catalogue."""
        return self._read("catalogue", read_catalogue)

    @functools.cached_property
    def conversions(self) -> list[Conversion]:
        """Purchases after queries, of items that the catalogue has."""
        known = {item.id: None for item in self.catalogue}
        return self._read("conversions", lambda s: read_conversions(s, known))

    @functools.cached_property
    def outliers(self) -> list[Example]:
        """Queries of other domains, without labels."""
        return self._read("outliers", read_queries)

    def _check_fields(self, catalogue: Sequence[Item]) -> None:
        """Tell of roles whose catalogue field no item has.

        Raises:
            InputError: Such a role is `grounded`: every label of it would be rejected.
        """
        source = self.source("catalogue")
        for role in self.task.roles if source is not None else ():
            if role.catalogue is None or any(item.values(role.catalogue) for item in catalogue):
                continue
            fields = sorted({f"attributes.{name}" for item in catalogue for name in item.attributes})
            problem = f"no item has the field {role.catalogue!r} of role {role.name!r}"
            expected = ", ".join(["brand", "category", *fields[:12]])
            if role.grounded:
                raise InputError(
                    f"{problem}, which is grounded: each of its labels would be rejected", file=source,
                    expected=expected,
                )
            warn(problem, file=source, expected=expected)

    def _held_out(self) -> frozenset[str]:
        """Calibration queries that are test queries or near-duplicates of one: never shown as an example."""
        from task.near_duplicates import clusters
        from task.normalize import normaliser

        test = [e.query for e in self.test]
        other = [e.query for e in self.calibration]
        cluster_of = clusters([*test, *other], normaliser(self.task.normaliser))
        held_out = set(cluster_of[: len(test)])
        return frozenset(q for q, c in zip(other, cluster_of[len(test) :], strict=True) if c in held_out)

    @functools.cached_property
    def calibration(self) -> list[Example]:
        """Gold rows that the teacher may see, as people corrected them."""
        return list(gold_with(self._gold("calibration"), self.verdicts))

    @functools.cached_property
    def test(self) -> list[Example]:
        """Gold test rows, as people corrected them, then those that people audited; the teacher never sees them."""
        known = {x.query for name in ("test", "calibration") for x in self._gold(name)} if self.verdicts else set()
        return [*gold_with(self._gold("test"), self.verdicts), *audited(self.verdicts, known)]

    @functools.cached_property
    def _tables_of_gold(self) -> dict[str, list[Example]]:
        return {}

    def _gold(self, name: str) -> list[Example]:
        """The rows of a table of gold as its file has them."""
        if name not in self._tables_of_gold:
            self._tables_of_gold[name] = self._read(name, lambda s: read_labels(s, self.task))
        return self._tables_of_gold[name]

    @property
    def judged(self) -> list[Example]:
        """The gold test rows that the report is about: the first `eval.max_rows`."""
        return self.test[: self.task.eval.max_rows]

    def _read(self, name: str, reader: Callable[[Path | str], list[_Row]]) -> list[_Row]:
        source = self.source(name)
        return [] if source is None else reader(_there(source))


def _there(source: Path | str) -> Path | str:
    """The source, if it is there. Raises `InputError` if not, with where the task file says that it is."""
    if isinstance(source, Path) and not source.exists():
        raise InputError(
            "no such file", file=source,
            fix=where_instead(source) or "Check data.dir and the file names in the task file",
        )
    return source


def where_instead(source: Path) -> str | None:
    """What to do about a table that is not in `data.dir`, but in the working directory or above: as exports are."""
    folders = [Path(), *source.parent.parents][: 1 + _LOOKED_ABOVE]
    found = next((f / source.name for f in folders if (f / source.name).exists()), None)
    return None if found is None else (
        f"There is {found}, but data's files are looked for in data.dir: move it to {source.parent}, or give its "
        f"absolute path, {found.absolute()}"
    )


def _digest(source: Path | str) -> str:
    source = _there(source)
    if isinstance(source, str):
        folder = Path(source.removeprefix("hub:").rpartition(":")[0])
        return sha256_json([source, _files_digest(folder, dataset_files(folder))]) if folder.is_dir() else source
    files = files_of(source)
    return sha256_file(source) if files == [source] else _files_digest(source, files)


def _files_digest(folder: Path, files: Sequence[Path]) -> str:
    return sha256_json({str(f.relative_to(folder)): sha256_file(f) for f in files})
