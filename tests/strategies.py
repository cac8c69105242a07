"""Hypothesis strategies: queries with labellings of the toy task."""

from __future__ import annotations

from hypothesis import strategies as st

from task.labels import Example, Label, ordered
from task.segmentation import Segmentation, units

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
