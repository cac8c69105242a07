"""The `catalog` backend: labels from catalogue and purchases, without an LLM (method: `segmenter.py`)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from task.files import sha256_json
from task.labels import Example
from task.normalize import normaliser
from task.progress import Progress
from task.readers import Conversion, Item
from task.spec import Task
from teacher import retrieval
from teacher.backends.catalog import categories
from teacher.backends.catalog.lexicon import Lexicon
from teacher.backends.catalog.segmenter import Segmented, Segmenter
from teacher.backends.computed import ComputedBackend, Replies
from teacher.backends.job import LabellingJob
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.evidence import Evidence, EvidenceFinder
from teacher.retrieval.index import Index, build_index

# Increase this when the same log and catalogue give other labels.
VERSION = 2
_KNOWN_OUTSIDE = 5.0
_BLOCK = 512


class CatalogBackend(ComputedBackend):
    """Labels queries from the whole log, the catalogue and the purchases."""

    uses_whole_log = True

    def rules(self, task: Task) -> Mapping[str, int | str]:
        """See `Backend`."""
        return {"catalog backend": VERSION, "retrieval": retrieval.VERSION, **_category_rules(task)}

    def keys(self, job: LabellingJob) -> dict[str, str]:
        """Query → hash of version, settings, roles, all input files and the query."""
        task = job.task
        settings = task.teacher.model_dump(mode="json", include={"retrieval", "fuzzy", "min_confidence"})
        roles = [r.model_dump(mode="json", exclude={"guard"}) for r in task.roles]
        base = sha256_json({
            "backend": "catalog", "version": VERSION, "settings": settings, "roles": roles,
            "inputs": job.sources.fingerprint, **_category_rules(task),
        })
        return {q.query: sha256_json([base, q.query]) for q in job.queries}

    def replies(self, job: LabellingJob) -> Replies:
        """Fits a `CatalogTeacher` on the job's queries, without those that it is only compared on."""
        model = job.fetch(job.task.teacher.retrieval.embedder)
        sources = job.sources
        log = [q for q in job.queries if q.query not in job.compared]
        return CatalogTeacher(
            job.task, log, sources.catalogue, sources.conversions, model=model, folder=job.folder,
            also=[q for q in job.queries if q.query in job.compared], progress=job.progress,
        ).reply

    def context_kinds(self, task: Task) -> Sequence[str]:
        """See `teacher.backends.backend.Backend`."""
        return task.teacher.retrieval.use

    def with_context(self, task: Task, kinds: Sequence[str]) -> Task:
        """See `teacher.backends.backend.Backend`."""
        retrieval = task.teacher.retrieval.model_copy(update={"use": tuple(kinds)})
        return task.model_copy(update={"teacher": task.teacher.model_copy(update={"retrieval": retrieval})})


def _category_rules(task: Task) -> dict[str, int]:
    """The version of the rules for categories, of a task that has any: others have the keys that they had before."""
    return {"catalog categories": categories.VERSION} if categories.category_roles(task) else {}


class CatalogTeacher:
    """Labels queries from a catalogue and the purchases after queries.

    Two passes over the log: the first labels text that looks like a value of the catalogue and leaves a residue;
    aliases are learned from residues and purchases; the second pass uses them.

    Args:
        also: Queries to be labelled that nothing is learned from.
    """

    def __init__(
        self, task: Task, log: Sequence[Example], catalogue: Sequence[Item], conversions: Sequence[Conversion], *,
        model: Path, folder: Path, also: Sequence[Example] = (), progress: Progress,
    ) -> None:
        self._catalogue = catalogue
        self._has_open_roles = bool(task.open_roles)
        self._rows = {q.query: i for i, q in enumerate((*log, *also))}
        index = Index(build_index(catalogue, conversions, model=model, folder=folder, progress=progress))
        store = EmbeddingStore(folder, model=model, progress=progress)
        finder = EvidenceFinder(task.teacher.retrieval, index, store)
        texts = [q.query for q in (*log, *also)]
        used = frozenset(task.teacher.retrieval.use)
        vectors = finder.vectors(texts, "queries without purchases")
        progress.begin("retrieving evidence", len(texts))
        self._evidence: list[Evidence] = []
        for at in range(0, len(texts), _BLOCK):
            block = slice(at, at + _BLOCK)
            self._evidence += (e.only(used) for e in finder.find(texts[block], vectors[block]))
            progress.advance(len(texts[block]))
        normalise = normaliser(task.normaliser)
        lexicon = Lexicon.build(task, catalogue, normalise)
        bought: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for query, evidence in zip(log, self._evidence[: len(log)], strict=True):
            bought[normalise(query.query)].update(evidence.conversions)
        lexicon.learn_trust(task, bought)
        segmenter = Segmenter(task, lexicon)
        progress.begin("learning aliases from purchases", len(log))
        lexicon.learn_aliases(task, self._residues(log, segmenter, progress))
        self._segmenter = segmenter
        self._outside = self._count_outside(log, progress)
        self._results += (
            segmenter.label(q.query, e) for q, e in zip(also, self._evidence[len(log) :], strict=True)
        )

    def _residues(
        self, log: Sequence[Example], segmenter: Segmenter, progress: Progress
    ) -> Iterator[tuple[str, frozenset[str], dict[int, float]]]:
        for query, evidence in zip(log, self._evidence[: len(log)], strict=True):
            progress.advance()
            if evidence.conversions:
                result = segmenter.label(query.query, evidence)
                taken = frozenset(x.role for x in result.labels)
                for words in result.residue:
                    yield words, taken, {r: float(n) for r, n in evidence.conversions.items()}

    def _count_outside(self, log: Sequence[Example], progress: Progress) -> Counter[str]:
        """The number of queries that leave each word unlabelled; also stores the results of the second pass."""
        self._results: list[Segmented] = []
        outside: Counter[str] = Counter()
        progress.begin("segmenting queries", len(log))
        for query, evidence in zip(log, self._evidence[: len(log)], strict=True):
            result = self._segmenter.label(query.query, evidence)
            self._results.append(result)
            outside.update({w for run in result.residue for w in run.split(" ")})
            progress.advance()
        return outside

    def reply(self, query: str) -> tuple[str, dict[str, Any]]:
        """The reply for a query of the log, as JSON, and its evidence in short form.

        The signal `weakest` is the minimum confidence over the labels, the categories that were too doubtful for one,
        and the words without a label, where the task has roles for words. The confidence of such a word is lower the
        fewer queries leave it unlabelled (fillers are common, unknown brands are rare).
        """
        row = self._rows[query]
        result, evidence = self._results[row], self._evidence[row]
        words = [w for run in result.residue for w in run.split(" ")] if self._has_open_roles else []
        outside = [self._outside[w] / (self._outside[w] + _KNOWN_OUTSIDE) for w in words]
        parts = [x.confidence or 0.0 for x in result.labels] + outside + list(result.undecided)
        bought = sum(evidence.conversions.values())
        signals = {
            "weakest": min(parts, default=0.0), "outside": min(outside, default=1.0),
            "bought": bought / (bought + 3.0),
            "covered": 1.0 - sum(map(len, words)) / max(1, len(query.replace(" ", ""))),
        }
        labels = [
            {**x.to_json(), "signals": {k: round(v, 6) for k, v in s.items()}}
            for x, s in zip(result.labels, result.signals, strict=True)
        ]
        reply = {"labels": labels, "signals": {k: round(v, 6) for k, v in signals.items()}}
        return json.dumps(reply, ensure_ascii=False), evidence.to_json(self._catalogue)
