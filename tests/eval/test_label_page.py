"""The page of the labels on a narrow screen."""

from __future__ import annotations

from pathlib import Path


def test_the_context_of_a_query_can_be_folded() -> None:
    """On a narrow screen it would make each row a screen high; a query without any has nothing to unfold."""
    page = Path("eval/labels.html.j2").read_text()
    assert '<details class="fold" open><summary>context</summary>{{ q.evidence }}</details>{% endif %}' in page
    assert "context.open = !narrow.matches" in page
    narrow = Path("eval/page.html.j2").read_text().partition("@media (max-width: 45rem) {")[2]
    assert "details.fold > summary { display: list-item" in narrow.partition("@media print")[0]
