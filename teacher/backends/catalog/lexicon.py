"""The lexicon: the values of each role, their aliases, and the trust in each text.

Two things are learned from purchases, without labels:

- *trust* of a value: of the purchases after queries with its text, the share whose item has the value. `fresh` is a
  brand, but after most queries with that word people buy other brands: low trust.
- *aliases*: words that match no value, but after which people buy items of one value: `loo roll` → toilet tissue.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from task.readers import Item
from task.segmentation import units
from task.spec import Task

MAX_WORDS = 5
_PRIOR_PURCHASES = 4.0
_PRIOR_TRUST = 0.6


@dataclass(slots=True)
class Lexicon:
    """Values by role, and what was learned about them from purchases.

    Attributes:
        values: role → normalised value → number of items.
        rows: Per catalogue row: role → normalised value.
        trust: (role, normalised value) → share in [0, 1].
        aliases: role → normalised words → normalised value.
        closed_given: (closed role, role, normalised value) → closed value → items.
    """

    values: dict[str, Counter[str]] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    trust: dict[tuple[str, str], float] = field(default_factory=dict)
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    closed_given: defaultdict[tuple[str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @classmethod
    def build(cls, task: Task, catalogue: Sequence[Item], normalise: Callable[[str], str]) -> Lexicon:
        """Values from the catalogue."""
        lexicon = cls(values={r.name: Counter() for r in task.roles}, aliases={r.name: {} for r in task.open_roles})
        closed = task.closed_roles
        for item in catalogue:
            row: dict[str, str] = {}
            for role in task.roles:
                for value in item.values(role.catalogue) if role.catalogue else ():
                    # the values of a closed role are the task's and are not normalised
                    row[role.name] = value if role.kind == "closed" else normalise(value)
                    lexicon.values[role.name][row[role.name]] += 1
            lexicon.rows.append(row)
            for closed_role in closed:
                if closed_role.name in row:
                    for name, value in row.items():
                        if name != closed_role.name:
                            lexicon.closed_given[closed_role.name, name, value][row[closed_role.name]] += 1
        return lexicon

    def learn_trust(self, task: Task, bought: Mapping[str, Mapping[int, float]]) -> None:
        """Learn the trust of every value from the purchases of the log.

        Args:
            bought: Normalised query → catalogue row → purchases.
        """
        seen: defaultdict[tuple[str, str], float] = defaultdict(float)
        right: defaultdict[tuple[str, str], float] = defaultdict(float)
        holders: defaultdict[str, list[str]] = defaultdict(list)
        for role in task.open_roles:
            for value in self.values[role.name]:
                holders[value].append(role.name)
        for query, rows in bought.items():
            total = sum(rows.values())
            for text in set(ngrams(query)):
                for name in holders.get(text, ()):
                    seen[name, text] += total
                    right[name, text] += sum(n for r, n in rows.items() if self.rows[r].get(name) == text)
        for key, total in seen.items():
            self.trust[key] = (right[key] + _PRIOR_PURCHASES * _PRIOR_TRUST) / (total + _PRIOR_PURCHASES)

    def learn_aliases(
        self,
        task: Task,
        residues: Iterable[tuple[str, frozenset[str], Mapping[int, float]]],
        *,
        min_purchases: float = 3.0,
        min_queries: int = 3,
        min_share: float = 0.6,
        min_lift: float = 5.0,
    ) -> int:
        """Learn aliases from words without a label.

        The first and the last word must each be associated with the value by itself, which excludes `fresh loo roll`.

        Args:
            residues: (words without a label, roles that the query has already, catalogue row → purchases).

        Returns:
            The number of aliases learned.
        """
        names = [r.name for r in task.open_roles if r.catalogue]
        total: Counter[tuple[str, str]] = Counter()
        hits: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        support: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for number, (words, taken, rows) in enumerate(residues):
            weight = sum(rows.values())
            for text in set(ngrams(words)):
                for name in names:
                    if name in taken:
                        continue
                    total[name, text] += weight  # type: ignore[assignment]
                    support[name, text].add(number)
                    for row, n in rows.items():
                        value = self.rows[row].get(name)
                        if value:
                            hits[name, text][value] += n  # type: ignore[assignment]
        items = max(1, len(self.rows))
        learned = 0
        for (name, text), counter in sorted(hits.items()):
            value, count = min(counter.items(), key=lambda x: (-x[1], x[0]))
            share = count / (total[name, text] + 1.0)
            needed = min_lift * self.values[name][value] / items
            edges = {text.split(" ")[0], text.split(" ")[-1]}
            tied = all(hits[name, w][value] >= needed * total[name, w] for w in edges)
            enough = count >= min_purchases and len(support[name, text]) >= min_queries
            if enough and share >= max(min_share, needed) and tied:
                self.aliases[name][text] = value
                self.trust.setdefault((name, text), share)
                learned += 1
        return learned


def ngrams(text: str, longest: int = MAX_WORDS) -> list[str]:
    """All runs of up to `longest` words of a normalised text."""
    words = text.split(" ")
    return [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(len(words), i + longest) + 1)]


def unit_spans(query: str) -> list[tuple[int, int]]:
    """The spans of the words that the segmenter works on."""
    return units(query, "whitespace")
