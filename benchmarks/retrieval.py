"""Retrieval over 50,000 and 1,000,000 items: build time, memory, recall, and contexts per second.

    python -m benchmarks.retrieval 50000 [--rounds 3] [--folder runs/retrieval-50000]
    python -m benchmarks.retrieval 1000000

The catalogue is synthetic (`samples.market`), with one brand per 50 items; 2,000 queries with the noise of the tail
are embedded and searched. All candidates get the same embeddings (by far the longest step; its CPU time is reported
separately, and they are kept in the folder), the same words, 50 rows from each list, and the same fusion:

- `limbeck`: bm25s, and exact vector search;
- `usearch`: the same bm25s, and usearch's HNSW graph of half-precision vectors;
- `faiss`: bm25s, and FAISS's inverted file of half-precision vectors (IVF), memory-mapped;
- `lancedb`: LanceDB's full-text and IVF-HNSW-SQ indexes, re-ranked by the whole vectors.

Each candidate builds in one process and searches in another, so that their peak memory is measured separately; rounds
of searches alternate between candidates. Built indexes are used again as long as the folder exists. Writes
benchmarks/results/retrieval-ITEMS.json. The peers are not part of the installation: `pip install usearch faiss-cpu
lancedb`; candidates that are not installed are skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from limbeck.environment import device, git_commit, versions
from task.files import read_json, write_json
from task.model_store import fetch
from task.readers import Item
from task.settings import Retrieval
from teacher.retrieval.catalogue_table import ItemTable, write_items
from teacher.retrieval.embedder import Vectors
from teacher.retrieval.embedding_store import EmbeddingStore
from teacher.retrieval.hybrid_search import HybridIndex, item_text, write_hybrid, write_lexical
from teacher.retrieval.nearest_neighbours import exact

QUERIES, BRANDS_PER_ITEM, SEED, BLOCK = 2_000, 1 / 50, 7, 512
SETTINGS = Retrieval()
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Prepare, build and search; or one of these steps, in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps catalogue and embeddings (runs/retrieval-ITEMS)")
    parser.add_argument("--step", choices=["build", "search"], help=argparse.SUPPRESS)
    parser.add_argument("--candidate", choices=CANDIDATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder or Path("runs") / f"retrieval-{options.items}"
    if options.step == "build":
        build(folder, options.candidate)
    elif options.step == "search":
        search(folder, options.candidate)
    else:
        compare(folder, options.items, options.rounds)


def compare(folder: Path, items: int, rounds: int) -> None:
    """Run every candidate's steps and write the result."""
    prepared = prepare(folder, items)
    present = [c for c in CANDIDATES if importlib.util.find_spec("bm25s" if c == "limbeck" else c)]
    found: dict[str, Any] = {c: {"build": built(folder, items, c), "search": []} for c in present}
    for _ in range(rounds):
        for c in present:
            found[c]["search"].append(step(folder, items, "search", c))
    for c in present:
        runs = found[c]["search"]
        rates = [r["contexts_per_s"] for r in runs]
        found[c]["contexts_per_s"] = {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}
        found[c] |= {k: max(r[k] for r in runs) for k in ("recall_at_10", "peak_mb", "opened_s")}
        print(c, json.dumps({k: v for k, v in found[c].items() if k != "search"}), flush=True)
    write_json(RESULTS / f"retrieval-{items}.json", {
        "items": items, "queries": QUERIES, "rounds": rounds, **prepared, "candidates": found, "versions": versions(),
        "device": device(), "git": git_commit(),
    })


def built(folder: Path, items: int, candidate: str) -> Any:
    """Figures of building a candidate; builds it if it has not been built."""
    kept = folder / f"built-{candidate}.json"
    if not kept.exists():
        write_json(kept, step(folder, items, "build", candidate))
    return read_json(kept)


def step(folder: Path, items: int, name: str, candidate: str) -> Any:
    """One step in its own process; its last line of output is JSON."""
    command = [sys.executable, "-m", "benchmarks.retrieval", str(items), "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--step", name, "--candidate", candidate], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def prepare(folder: Path, items: int) -> dict[str, Any]:
    """Catalogue, queries, embeddings and exact neighbours, unless they exist."""
    kept = folder / "prepared.json"
    if kept.exists():
        return dict(read_json(kept))
    from samples.market.generate import TAIL, Market

    folder.mkdir(parents=True, exist_ok=True)
    market = Market(SEED, items, brands=round(items * BRANDS_PER_ITEM))
    rows = [m.row() for m in market.items]
    catalogue = [Item(r["id"], r["title"], r["brand"], r["category"], r["attributes"]) for r in rows]
    write_items(folder / "catalogue.arrow", catalogue)
    queries: dict[str, None] = {}
    while len(queries) < QUERIES:
        queries[market.ask(TAIL, 0.65, 0.0).query] = None
    write_json(folder / "queries.json", list(queries))
    store = EmbeddingStore(folder, model=fetch(SETTINGS.embedder))
    texts = [item_text(i) for i in catalogue]
    before = len(store)  # from an attempt that was interrupted
    started = time.process_time()
    vectors = store.vectors(texts)
    seconds = time.process_time() - started
    np.save(folder / "vectors.npy", vectors)
    asked = EmbeddingStore(folder, model=fetch(SETTINGS.embedder), shared=True).vectors(list(queries))
    np.save(folder / "truth.npy", exact(asked, among=vectors, count=SETTINGS.depth)[0])
    result = {"embedding_cpu_s": round(seconds, 1), "embedded_meanwhile": len(store) - before}
    write_json(kept, result)
    return result


def build(folder: Path, candidate: str) -> None:
    """Build a candidate's index from texts and embeddings."""
    texts = [item_text(i) for i in ItemTable(folder / "catalogue.arrow")]
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    target = folder / candidate
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    started = time.monotonic()
    CANDIDATES[candidate].build(target, texts, vectors)
    seconds = time.monotonic() - started
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    print(json.dumps({"seconds": round(seconds, 1), "peak_mb": peak_mb(), "disk_mb": round(size / 1e6)}))


def search(folder: Path, candidate: str) -> None:
    """Embed and search all queries in blocks, after a warm-up with other queries."""
    queries = read_json(folder / "queries.json")
    embedder = EmbeddingStore(folder / "unkept", model=fetch(SETTINGS.embedder), shared=True)
    warm = embedder.vectors(["warm up", "once"])
    started = time.monotonic()
    index = CANDIDATES[candidate](folder / candidate, SETTINGS)
    index.search(["warm up", "once"], warm)
    opened = time.monotonic() - started
    started = time.monotonic()
    for at in range(0, len(queries), BLOCK):
        block = queries[at : at + BLOCK]
        index.search(block, embedder.vectors(block))
    seconds = time.monotonic() - started
    peak = peak_mb()
    found = index.dense(embedder.vectors(queries), 10)
    truth = np.load(folder / "truth.npy")[:, :10].tolist()
    recall = float(np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, truth, strict=True)]))
    print(json.dumps({
        "contexts_per_s": round(len(queries) / seconds, 1), "opened_s": round(opened, 1), "peak_mb": peak,
        "recall_at_10": round(recall, 4),
    }))


def peak_mb() -> int:
    """Peak resident memory of this process (not its parent's, as getrusage has it); touched mapped pages count."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024)


class Limbeck(HybridIndex):
    """The index that the teacher uses."""

    @staticmethod
    def build(folder: Path, texts: Sequence[str], vectors: Vectors) -> None:
        """BM25 and vectors."""
        write_hybrid(folder, texts, vectors, np.arange(len(texts)))


class Usearch(HybridIndex):
    """The same BM25, and a graph of neighbours (HNSW, Malkov and Yashunin 2018).

    Rows are added by one thread: usearch's threads overwrite each other's links, after which some rows, different ones
    each time, are never found.
    """

    GRAPH: ClassVar[dict[str, Any]] = {
        "metric": "ip", "dtype": "f16", "connectivity": 16, "expansion_add": 128, "expansion_search": 256
    }

    def __init__(self, folder: Path, settings: Retrieval) -> None:
        from usearch.index import Index

        super().__init__(folder, settings)
        path = str(folder / "ann.usearch")
        self._graph = Index(ndim=int((Index.metadata(path) or {})["dimensions"]), **self.GRAPH)
        self._graph.view(path)

    @staticmethod
    def build(folder: Path, texts: Sequence[str], vectors: Vectors) -> None:
        """Add all vectors."""
        from usearch.index import Index

        write_lexical(folder, texts)
        index = Index(ndim=vectors.shape[1], **Usearch.GRAPH)
        for at in range(0, len(vectors), 10_000):
            part = vectors[at : at + 10_000]
            index.add(np.arange(at, at + len(part)), part, threads=1)
        index.save(str(folder / "ann.usearch"))

    def dense(self, vectors: Vectors, count: int) -> list[list[int]]:
        """Nearest first."""
        rows: list[list[int]] = self._graph.search(vectors, count).keys.astype(np.int64).reshape(-1, count).tolist()
        return rows


class Faiss(HybridIndex):
    """The same BM25, and an inverted file: `NPROBE` of several thousand cells are searched."""

    NPROBE = 64

    def __init__(self, folder: Path, settings: Retrieval) -> None:
        import faiss

        super().__init__(folder, settings)
        self._ivf = faiss.read_index(str(folder / "ivf.faiss"), faiss.IO_FLAG_MMAP)
        self._ivf.nprobe = self.NPROBE

    @staticmethod
    def build(folder: Path, texts: Sequence[str], vectors: Vectors) -> None:
        """4 × √rows cells, by k-means on 50 rows per cell."""
        import faiss

        write_lexical(folder, texts)
        rows, width = vectors.shape
        cells = 4 * math.isqrt(rows)
        metric = faiss.METRIC_INNER_PRODUCT
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, cells, half, metric, False)
        chosen = np.sort(np.random.default_rng(SEED).choice(rows, min(rows, 50 * cells), replace=False))
        index.train(np.ascontiguousarray(vectors[chosen]))
        for at in range(0, rows, 10_000):
            index.add(np.ascontiguousarray(vectors[at : at + 10_000]))
        faiss.write_index(index, str(folder / "ivf.faiss"))

    def dense(self, vectors: Vectors, count: int) -> list[list[int]]:
        """Nearest first."""
        rows: list[list[int]] = self._ivf.search(vectors, count)[1].tolist()
        return rows


class LanceDB(HybridIndex):
    """LanceDB's own full-text index and its graph over quantised vectors."""

    NPROBES, EF, REFINE, THREADS = 16, 200, 4, 4

    def __init__(self, folder: Path, settings: Retrieval) -> None:
        import lancedb

        self._settings = settings
        self._table = lancedb.connect(str(folder)).open_table("items")
        self._pool = ThreadPoolExecutor(self.THREADS)
        self._size = self._table.count_rows()

    def __len__(self) -> int:
        return int(self._size)

    @staticmethod
    def build(folder: Path, texts: Sequence[str], vectors: Vectors) -> None:
        """A table with both indexes; words are tokenised as for bm25s."""
        import lancedb
        import pyarrow as pa
        from lancedb.index import FTS, HnswSq

        width = vectors.shape[1]
        schema = pa.schema([("row", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), width))])

        def batches() -> Iterator[pa.RecordBatch]:
            for at in range(0, len(texts), 10_000):
                part = np.ascontiguousarray(vectors[at : at + 10_000])
                flat = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), width)
                rows = pa.array(range(at, at + len(part)), pa.int64())
                yield pa.record_batch([rows, pa.array(texts[at : at + 10_000]), flat], schema=schema)

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        table = lancedb.connect(str(folder)).create_table("items", reader)
        table.create_index("vector", config=HnswSq(distance_type="dot"))
        table.create_index("text", config=FTS(stem=False, remove_stop_words=False, ascii_folding=False))
        table.optimize()

    def lexical(self, queries: Sequence[str], count: int) -> list[list[int]]:
        """Best score first."""
        return list(self._pool.map(lambda q: self._words(q, count), queries))

    def dense(self, vectors: Vectors, count: int) -> list[list[int]]:
        """Nearest first."""
        return list(self._pool.map(lambda v: self._near(v, count), vectors))

    def _words(self, query: str, count: int) -> list[int]:
        found = self._table.search(query, query_type="fts").select(["row", "_score"]).limit(count).to_arrow()
        rows: list[int] = found["row"].to_pylist()
        return rows

    def _near(self, vector: Vectors, count: int) -> list[int]:
        search = self._table.search(vector).distance_type("dot").select(["row", "_distance"]).limit(count)
        found = search.nprobes(self.NPROBES).ef(self.EF).refine_factor(self.REFINE).to_arrow()
        rows: list[int] = found["row"].to_pylist()
        return rows


CANDIDATES: dict[str, Any] = {"limbeck": Limbeck, "usearch": Usearch, "faiss": Faiss, "lancedb": LanceDB}

if __name__ == "__main__":
    main()
