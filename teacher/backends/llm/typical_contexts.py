"""Contexts as long as those that retrieval would find, for a plan before there is an index.

An index needs an embedder, which may have to be downloaded, and minutes. Which items, neighbours and examples a query
would be shown decides little about the length of its prompt; how many, and how long they are, decides it. So they are
chosen by the words that they share with the query, from the same tables, and put together by the same rules.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from llm_client.context import EMPTY, Context
from task.labels import Example
from task.spec import Task
from teacher.backends.job import Sources
from teacher.backends.llm.contexts import searches
from teacher.retrieval.context import assemble, shown_example, shown_values, similar_values, spellings_of
from teacher.retrieval.evidence import Evidence
from teacher.retrieval.hybrid_search import Hit

_MOST_TEXTS = 20_000  # of more, a sample has texts of the same length
_WORD_ROWS = 1_000  # of those with one word


def typical_contexts(task: Task, sources: Sources, queries: Sequence[Example]) -> list[Context]:
    """Contexts as long as those that retrieval would find."""
    if not searches(task, sources):
        return [EMPTY for _ in queries]
    settings, draw = task.teacher.openai, random.Random(0)
    catalogue = sources.catalogue
    rows = {item.id: i for i, item in enumerate(catalogue)}
    bought: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for c in sources.conversions:
        bought[c.query][rows[c.item_id]] += c.count
    items, asked = _Alike([i.title for i in catalogue], draw), _Alike(sorted(bought), draw)
    gold = [e for e in sources.calibration if e.query not in sources.held_out]
    examples = _Alike([e.query for e in gold], draw)
    few_shot = settings.few_shot if "examples" in settings.context else 0
    values, spelling = similar_values(task, catalogue), spellings_of(task, catalogue)
    for name, same in spelling.items():  # each is shown once
        if same and name in values:
            values[name] = [v for v in values[name] if same.get(v, v) == v]
    retrieval = task.teacher.retrieval

    def context(query: str) -> Context:
        near = [asked.texts[i] for i in asked.find(query, retrieval.neighbours)]
        evidence = Evidence(
            tuple(Hit(row, 0.0) for row in items.find(query, retrieval.items)), bought.get(query, {}),
            tuple((q, 0.0) for q in near), sum((bought[q] for q in near), Counter[int]()),
        )
        similar = {
            name: draw.sample(v, min(shown_values(task.role(name), "similar"), len(v))) for name, v in values.items()
        }
        shown = [shown_example(gold[i]) for i in examples.find(query, few_shot)]
        return assemble(task, catalogue, evidence, examples=shown, similar=similar, spelling=spelling)

    return [context(q.query) for q in queries]


class _Alike:
    """Texts by the words that they share with another one, rare words first; where too few do, any."""

    def __init__(self, texts: Sequence[str], draw: random.Random) -> None:
        self.texts, self._draw = texts, draw
        self._among = draw.sample(range(len(texts)), min(_MOST_TEXTS, len(texts)))
        self._by_word: defaultdict[str, list[int]] = defaultdict(list)
        for i in self._among:
            for word in sorted(set(texts[i].lower().split())):
                self._by_word[word].append(i)

    def find(self, text: str, count: int) -> list[int]:
        """Positions of at most `count` texts that differ from this one."""
        score: Counter[int] = Counter()
        for word in sorted(set(text.lower().split())):
            found = self._by_word.get(word, [])
            for i in self._draw.sample(found, min(_WORD_ROWS, len(found))):
                score[i] += 1 / len(found)  # type: ignore[assignment]
        best = [i for i, _ in score.most_common(count + 1) if self.texts[i] != text][:count]
        if len(best) < count:
            seen = {*best, *(i for i in score if self.texts[i] == text)}
            others = self._draw.sample(self._among, min(len(self._among), 2 * count))
            best += [i for i in others if i not in seen and self.texts[i] != text][: count - len(best)]
        return best
