"""Hypothesis strategies: queries with labellings of the toy task."""

from __future__ import annotations

from hypothesis import strategies as st

from task.labels import Example, Label, ordered
from task.segmentation import Segmentation, units
from task.spec import Task

WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp", "Cn", "Co")), min_size=1, max_size=8
)
QUERIES = st.lists(st.one_of(st.sampled_from(["oat", "milk", "1l", "牛奶", "молоко", "<|im_end|>", "é"]), WORDS),
                   min_size=1, max_size=7).map(" ".join)


@st.composite
def examples(draw: st.DrawFn, segmentation: Segmentation = "whitespace") -> Example:
    """A query with non-overlapping spans on unit borders, and closed labels."""
    query = draw(QUERIES)
    spans = units(query, segmentation)
    labels: list[Label] = []
    at = 0
    while at < len(spans):
        length = draw(st.integers(1, 3))
        role = draw(st.sampled_from([None, "brand", "product"]))
        end = min(len(spans), at + length)
        if role == "brand" and any(x.role == "brand" for x in labels):
            role = None
        if role:
            start, stop = spans[at][0], spans[end - 1][1]
            labels.append(Label(role, query[start:stop], start, stop))
        at = end
    aisle = draw(st.sampled_from([None, "dairy", "drinks"]))
    labels += [Label("aisle", aisle)] if aisle else []
    labels += [Label("mark", m) for m in draw(st.sets(st.sampled_from(["vegan", "organic", "kosher"])))]
    return Example(query, ordered(labels))


# Paths of a taxonomy; some lie above others, and some have many siblings.
TAXONOMIES = st.lists(
    st.lists(st.sampled_from(["a", "B", "c d", "茶", "é", "1", "Z"]), min_size=1, max_size=4).map(" > ".join),
    min_size=1, max_size=25, unique=True,
)


# Queries as people type them: scripts without blanks, combining marks, characters beyond U+FFFF, odd blanks.
TYPED = st.lists(
    st.one_of(
        st.sampled_from([
            "oat milk", "👨🏻‍🚒", "𝒜", "नमस्ते", "ไทย", "東京都", "e\u0301", "#", "# text = x", "-DOCSTART-", "O",
            "B-brand", " ", "  ", "\t", "\r\n", "\u2028", "\ufeff", "\\n", '"', "\u00a0", "a=b",
        ]),
        st.text(st.characters(codec="utf-8"), max_size=6),
    ),
    max_size=6,
).map("".join)


@st.composite
def annotated_examples(draw: st.DrawFn, task: Task) -> Example:
    """A typed query with any labels that a task allows: overlapping and equal spans, values and texts, confidences."""
    query = draw(TYPED)
    confidence = st.one_of(st.none(), st.floats(0, 1))
    labels: list[Label] = []
    for _ in range(draw(st.integers(0, 4)) if query else 0):
        start, end = sorted(draw(st.tuples(st.integers(0, len(query)), st.integers(0, len(query)))))
        if query[start:end].strip():
            role = draw(st.sampled_from(task.open_roles)).name
            labels.append(Label(role, query[start:end], start, end, draw(confidence)))
    for role in task.closed_roles:
        values = draw(st.lists(st.sampled_from(sorted(role.allowed)), unique=True, max_size=3 if role.multiple else 1))
        labels += [Label(role.name, v, confidence=draw(confidence)) for v in values]
    for role in task.text_roles:
        texts = st.one_of(st.sampled_from(["havre drink", "ミルク", "𝒜 b"]), TYPED)
        found = draw(st.lists(texts, unique=True, max_size=3))
        labels += [
            Label(role.name, x, confidence=draw(confidence)) for x in found
            if task.label_problem(query, role.name, x) is None
        ]
    id_ = draw(st.one_of(st.none(), st.sampled_from(["17", "q 1", " odd\n", ""])))
    return Example(query, ordered(labels), draw(st.integers(0, 5)), id_)
