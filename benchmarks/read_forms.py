"""The answer form `read` and its alternatives: F1 and latency of each.

    python -m benchmarks.read_forms DATA [--work runs/read-forms] [--rows 3000] [--held 700] [--epochs 2] [--untimed]

DATA is a folder with QueryNER's train.jsonl; its first rows are for training, the last ones held out, dev.jsonl is not
used. Every way of reading is trained by the same loop with the recipe of configs/queryner.yaml and one seed:

- `echo`: the query, then the query again; each word is read at its last token of the second copy (the one in use)
- `once`: the query alone; a word cannot attend to the rest of the query
- `instructed echo`: a line of instruction between the copies
- `first token`: echo, but a word is read at its first token
- `trained head`: echo, and the symbols' rows of the LM head are trained too
- `both ways`, `both ways, echo`: attention in both directions in every layer (`is_causal: false` in the config, which
  transformers and vLLM both heed), on the query alone and on the echo
- `20 layers`, `10 layers`: echo on the base without its upper layers
- `transitions at half`: echo decoded with a transition matrix counted from the labels; nothing is trained

F1 is strict (role and span) with an interval; differences are paired over queries. Latency is one query at a time
through stock vLLM on the merged model, for the ways whose engine does different work. Bidirectional attention in the
upper layers only (LS-unLLaMA) is not among them: stock vLLM has one switch for all layers. Each way is kept in the work
folder, so that an interrupted run resumes; `--untimed` leaves the latencies to a run on an idle machine. Expected: echo
far above once, the rest within its interval, both ways on the query alone near the echo at half its tokens; 20 layers
two thirds of the latency for a point or two of F1. Writes benchmarks/results/read_forms.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.client import VllmClient
from engine.vllm_process import VllmProcess
from eval.latency import percentiles
from eval.quality import label_agreement
from eval.seeds import difference_over_seeds, over_seeds
from limbeck.environment import device, git_commit, versions
from limbeck.student_jobs import read_predictions
from student.adapters import add_adapter
from student.inference import all_scores
from student.kernels.fused_lora import fuse
from student.kernels.packed_llama import pack
from student.merging.merge import merge
from student.merging.token_classifier import export_classifier
from student.model import TargetLogits, collate, dtype_on, load_base
from student.training.objective import Supervised, batch, supervise, weighted_loss
from student.training.order import learning_rate, plan_batches, total_steps
from task.codec import Codec, Encoded, Tokenizer
from task.files import read_json, write_json, write_jsonl
from task.labels import Example
from task.load import load_task
from task.model_store import fetch
from task.readers import read_labels
from task.segmentation import units
from task.spec import Task
from task.tokenizer import FastTokenizer, load_tokenizer
from task.training_row import TrainingRow

RESULT = Path(__file__).parent / "results" / "read_forms.json"
QUERIES, WARM_UP = 60, 5
TRANSITIONS = 0.5
INSTRUCTION = "Label every word of the query by its role:"
Prompt = Callable[[Codec, str, Tokenizer], Encoded]


def once(codec: Codec, query: str, tokenizer: Tokenizer) -> Encoded:
    """The query alone, each word read at its last token."""
    return _read(codec, query, tokenizer, list(codec.prefix))


def instructed(codec: Codec, query: str, tokenizer: Tokenizer) -> Encoded:
    """An instruction between the copies."""
    before = tokenizer.encode(query) + list(codec.separator) + tokenizer.encode(INSTRUCTION) + list(codec.separator)
    return _read(codec, query, tokenizer, [*codec.prefix, *before])


def first_token(codec: Codec, query: str, tokenizer: Tokenizer) -> Encoded:
    """Echo, each word read at its first token."""
    return _read(codec, query, tokenizer, [*codec.prefix, *tokenizer.encode(query), *codec.separator], first=True)


def _read(codec: Codec, query: str, tokenizer: Tokenizer, ids: list[int], *, first: bool = False) -> Encoded:
    positions, at = [], 0
    for _, end in units(query, codec.segmentation):
        piece = tokenizer.encode(query[at:end]) or [codec.symbol_ids[0]]
        positions.append(len(ids) if first else len(ids) + len(piece) - 1)
        ids += piece
        at = end
    return Encoded(ids, positions, [])


@dataclass(frozen=True, slots=True)
class Way:
    """One way of reading."""

    prompt: Prompt | None = None
    layers: int | None = None
    both: bool = False
    head: bool = False
    timed: bool = False


WAYS: Mapping[str, Way] = {
    "echo": Way(timed=True), "once": Way(once, timed=True), "instructed echo": Way(instructed, timed=True),
    "both ways": Way(once, both=True, timed=True), "both ways, echo": Way(both=True, timed=True),
    "first token": Way(first_token), "trained head": Way(head=True),
    "20 layers": Way(layers=20, timed=True), "10 layers": Way(layers=10, timed=True),
}


@dataclass(frozen=True, slots=True)
class Read(Codec):
    """A codec whose prompt is made in another way."""

    way: Prompt | None = None

    def prompt(self, query: str, tokenizer: Tokenizer) -> Encoded:
        """See `Codec.prompt`."""
        return Codec.prompt(self, query, tokenizer) if self.way is None else self.way(self, query, tokenizer)


def main() -> None:
    """Train what is missing, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/read-forms"))
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--held", type=int, default=700)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--untimed", action="store_true", help="train and score only; write no result")
    options = parser.parse_args()
    settings = {"data.dir": str(options.data.resolve()), "student.epochs": str(options.epochs)}
    task = load_task(Path("configs/queryner.yaml"), [f"{k}={v}" for k, v in settings.items()]).task
    rows = read_labels(options.data / "train.jsonl", task)
    learned, held = rows[: options.rows], rows[-options.held :]
    base = fetch(task.student.base)
    tokenizer = load_tokenizer(base)
    codec = Codec.compile(task, learned, tokenizer, "read")
    found: dict[str, list[Example]] = {}
    timed: dict[str, Any] = {}
    for name, way in WAYS.items():
        folder = options.work / name.replace(",", "").replace(" ", "-")
        mine = Read(**{f.name: getattr(codec, f.name) for f in dataclasses.fields(codec)}, way=way.prompt)
        if not (folder / "predictions.jsonl").exists():
            folder.mkdir(parents=True, exist_ok=True)
            learn(task, way, mine, tokenizer, base, learned, held, folder)
        if way.timed and not options.untimed and not (folder / "latency.json").exists():
            write_json(folder / "latency.json", latency(task, way, mine, tokenizer, base, held, folder))
        found[name] = read_predictions(folder / "predictions.jsonl")
        timed[name] = read_json(folder / "latency.json") if (folder / "latency.json").exists() else None
        if name == "echo":
            scores = list(torch.load(folder / "scores.pt", weights_only=True))
            weighted = codec.with_transitions(learned, TRANSITIONS)
            found["transitions at half"] = [
                Example(x.query, weighted.decode_scores(x.query, s)) for x, s in zip(held, scores, strict=True)
            ]
        print(name, over_seeds(held, [found[name]], task, "span"), timed[name], flush=True)
    if options.untimed:
        return
    write_json(RESULT, {
        "rows": len(learned), "held_out": len(held), "epochs": options.epochs, "ways": [{
            "name": name, "strict_f1": over_seeds(held, [x], task, "span"), "latency": timed.get(name),
            "less_echo": None if name == "echo" else difference_over_seeds(held, [x], [found["echo"]], task, "span"),
        } for name, x in found.items()],
        "versions": versions(), "device": device(), "git": git_commit(),
    })
    print(RESULT)


def learn(
    task: Task, way: Way, codec: Read, tokenizer: FastTokenizer, base: Path, learned: Sequence[Example],
    held: Sequence[Example], folder: Path,
) -> None:
    """Train a way of reading and label the held-out rows."""
    with changed(base, way, folder) as start:
        model, logits = train(task, way, codec, tokenizer, start, learned)
    queries = [x.query for x in held]
    scores = all_scores(model, codec, tokenizer, queries) if not way.head else headed(logits, codec, tokenizer, queries)
    torch.save([torch.tensor(s) for s in scores], folder / "scores.pt")
    model.save_pretrained(str(folder / "adapter"), safe_serialization=True)
    write_jsonl(folder / "predictions.jsonl", (
        Example(q, codec.decode_scores(q, s)).to_json() for q, s in zip(queries, scores, strict=True)
    ))


@contextlib.contextmanager
def changed(base: Path, way: Way, folder: Path) -> Iterator[Path]:
    """The base of a way: unchanged, without its upper layers, or with attention in both directions."""
    out = folder / "base"
    shutil.rmtree(out, ignore_errors=True)
    if way.layers is not None:
        yield shortened(base, way.layers, out)
    elif way.both:
        shutil.copytree(base, out)
        write_json(out / "config.json", read_json(base / "config.json") | {"is_causal": False})
        yield out
    else:
        yield base
    shutil.rmtree(out, ignore_errors=True)


def train(
    task: Task, way: Way, codec: Codec, tokenizer: FastTokenizer, base: Path, learned: Sequence[Example]
) -> tuple[Any, Logits]:
    """The loop of `student.training.train` without checkpoints and evaluation; the same for every way."""
    s = task.student
    rows = [supervise(codec, tokenizer, TrainingRow(x)) for x in learned if codec.representable(x)]
    steps = total_steps(len(rows), s.batch_size, s.epochs, None)
    plan = plan_batches([len(r.encoded.ids) for r in rows], batch_size=s.batch_size, steps=steps, reshuffle=True,
                        window=s.length_window, seed=s.seed)
    dtype = dtype_on("cpu", s.dtype)
    model = add_adapter(load_base(base, dtype, s), s)
    fuse(model)
    pack(model)
    logits = Logits(model, codec.symbol_ids, trained=way.head)
    parameters = [p for p in (*model.parameters(), *logits.own) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=s.learning_rate, weight_decay=0.0, fused=True)
    index = {t: i for i, t in enumerate(codec.symbol_ids)}
    model.train()
    started = time.monotonic()
    for step, numbers in enumerate(plan):
        torch.manual_seed(s.seed * 1_000_003 + step * 1_009)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=s.learning_rate, warmup=s.warmup_steps, steps=steps,
                                        schedule=s.schedule)
        part: list[Supervised] = [rows[i] for i in numbers]
        ids, of, columns, targets, weights = batch(part, "cpu")
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            scores = logits(ids, of, columns)
        wanted = torch.tensor([index[int(t)] for t in targets])
        loss = weighted_loss(scores, wanted, weights) / weights.sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, s.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            seconds = time.monotonic() - started
            print(f"  step {step} of {steps}, loss {float(loss.detach()):.3f}, {seconds:.0f} s", flush=True)
    return model, logits


class Logits:
    """`TargetLogits`, or the same with trainable rows of the LM head for the symbols."""

    def __init__(self, model: Any, alphabet: Sequence[int], *, trained: bool) -> None:
        self._frozen = TargetLogits(model, alphabet)
        self.model = model
        head = model.get_output_embeddings().weight.detach()[list(alphabet)].float()
        self.own = [torch.nn.Parameter(head.clone())] if trained else []

    def __call__(self, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        if not self.own:
            scores: torch.Tensor = self._frozen(ids, rows=rows, columns=columns)
            return scores
        hidden = self._frozen.hidden(ids, rows=rows, columns=columns)
        with torch.autocast("cpu", enabled=False):
            return hidden.float() @ self.own[0].T


def headed(logits: Logits, codec: Codec, tokenizer: FastTokenizer, queries: Sequence[str]) -> list[Any]:
    """Scores of a trained LM head."""
    logits.model.eval()
    out = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for query in queries:
            prompt = codec.prompt(query, tokenizer)
            ids, rows, columns, _ = collate([prompt])
            out.append(logits(ids, rows, columns).numpy())
    return out


def shortened(base: Path, layers: int, out: Path) -> Path:
    """The base without its upper layers."""
    model = load_base(base, torch.bfloat16)
    decoder: Any = model.get_decoder()
    decoder.layers = decoder.layers[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]
    model.save_pretrained(str(out), safe_serialization=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy2(base / name, out / name)
    return out


def latency(
    task: Task, way: Way, codec: Codec, tokenizer: FastTokenizer, base: Path, held: Sequence[Example], folder: Path
) -> dict[str, Any]:
    """Milliseconds of one query at a time, straight to the engine that serves the merged model.

    `agreement` is the share of labels that are equal in transformers: it shows whether the engine supports the way at
    all.
    """
    asked = held[: QUERIES + WARM_UP]

    async def ask(url: str) -> tuple[list[float], list[Example]]:
        client = VllmClient(url, name="student", task=task, codec=codec, tokenizer=tokenizer)
        seconds, said = [], []
        for example in asked:
            started = time.perf_counter()
            found = await client.label([example.query])
            seconds.append(time.perf_counter() - started)
            said.append(Example(example.query, found[0].labels))
        await client.close()
        return seconds[WARM_UP:], said

    with changed(base, way, folder) as start:
        merge(base=start, adapter=folder / "adapter", out=folder / "model")
    export_classifier(folder / "model", codec.symbol_ids, folder / "classifier")
    try:
        with VllmProcess(
            folder / "classifier", name="student", runs_as="read", settings=task.serving, log=folder / "engine.log"
        ) as engine:
            engine.wait_ready()
            seconds, said = asyncio.run(ask(engine.url))
        expected = read_predictions(folder / "predictions.jsonl")[: len(asked)]
        return percentiles(seconds) | {"agreement": round(label_agreement(expected, said), 4)}
    finally:
        shutil.rmtree(folder / "model")
        shutil.rmtree(folder / "classifier")


if __name__ == "__main__":
    main()
