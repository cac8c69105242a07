"""The retrieved context that a prompt is rendered from.

Its kinds: `examples`, the nearest gold rows; `bought`, items bought after the query; `converted`, for each catalogue
role the values bought most often after the query and its neighbours; `similar`, values of a grounded role (brands)
nearest to the query by embedding; `items`, found by hybrid search; `neighbours`, similar queries that led to purchases.
Of a role with too many values to list (`Role.shortlisted`), `converted` and `similar` are the candidates for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Context = Mapping[str, Any]  # kind → entries; of `converted` and `similar` role → entries
KINDS = ("examples", "bought", "converted", "similar", "items", "neighbours")
EMPTY: Context = {kind: {} if kind in {"converted", "similar"} else [] for kind in KINDS}
