"""`limbeck plan`: estimates of a run, from the task file and the shapes of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from limbeck.inputs import where_instead
from limbeck.labelling_plan import NOTHING, Line, Standing, minutes, teacher_lines
from limbeck.openvino_model import is_wanted
from limbeck.run import Run
from limbeck.training_speed import Speed, assumed, measured
from student import estimate
from student.training.order import total_steps
from task.codec import is_tagged
from task.errors import InputError
from task.load import LoadedTask
from task.processor import computed_in
from task.role import Role
from task.spec import Task
from task.value_tree import tree_of

CHARS_PER_TOKEN: Final = 4.0
QUERY_TOKENS: Final = 9  # a shopping query of five words; the log is used if available
LABEL_SHARE: Final = 0.75  # assumed share of the log that the curriculum keeps
_LINE_TOKENS: Final = 2  # of a rewrite, beside its text: the role's symbol and the line break
_UNKNOWN_SHAPES: Final = "shapes unknown: estimates need a local folder whose config.json has a Llama's keys"


def make_plan(
    loaded: LoadedTask, run: Run | None = None, standing: Standing = NOTHING
) -> dict[str, list[Line]]:
    """The plan by section.

    Args:
        run: Where the task is run: has its generated data and its ledger, if there are any.
        standing: What of it is finished.

    Raises:
        InputError: The task's folder lacks the file of its queries, a table is malformed, or a budget is set for a
            model without a price.
    """
    task = loaded.task
    queries, tokens, source = _queries(task)
    shape = estimate.architecture(task.student.base)
    sections = {"teacher": teacher_lines(task, queries, source, run, standing)}
    if shape is None:
        sections["student"] = [Line("base", task.student.base, _UNKNOWN_SHAPES)]
        return sections
    training = _training(task, shape, queries, tokens, standing.rows, measured(task, run))
    sections["student"] = _student(task, shape, training, known=standing.rows is not None)
    sections["serving"] = _serving(task, shape, training.tokens)
    return sections


def beside(task: Task, found: Mapping[str, float]) -> list[dict[str, Any]]:
    """Planned and measured resources of a training run, for the report; empty for a model of unknown shapes.

    Args:
        found: What `student.training.train` writes into `measured.json`.
    """
    shape = estimate.architecture(task.student.base)
    if shape is None:
        return []
    queries, tokens, _ = _queries(task)
    t = _training(task, shape, queries, tokens)
    memory = ", ".join(f"{k} {v:.2f}" for k, v in t.memory.items())
    return [
        {"name": "trained parameters", "unit": "", "planned": t.trained, "measured": found["trained"],
         "basis": "LoRA alone" if task.student.peft else f"LoRA rank {task.student.lora.rank}"},
        {"name": "steps", "unit": "", "planned": t.steps, "measured": found["steps"],
         "basis": f"planned: about {t.rows:,} rows, {_assumed_rows(task, t.rows)}"},
        {"name": "tokens", "unit": "", "planned": t.steps * task.student.batch_size * t.tokens,
         "measured": found["tokens"], "basis": f"{t.tokens} a row planned"},
        {"name": "memory of a worker", "unit": "GiB", "planned": round(sum(t.memory.values()), 3),
         "measured": round(found["memory_bytes"] / estimate.GIB, 3),
         "basis": f"planned: {memory}; measured: " + (
             "peak memory of the device" if task.student.use_gpu
             else "growth of the process, with memory that libraries keep")},
        {"name": "time of the steps", "unit": "s", "planned": round(t.seconds, 1),
         "measured": round(found["seconds"], 1), "basis": t.speed.basis},
    ]


@dataclass(frozen=True, slots=True)
class Training:
    """Estimates of a training run: rows, tokens per row, GiB per worker by part, seconds of the steps."""

    rows: int
    tokens: int
    trained: int
    steps: int
    memory: Mapping[str, float]
    flops: float
    seconds: float
    speed: Speed


def _training(
    task: Task, shape: estimate.Architecture, queries: int, tokens: int, rows: int | None = None,
    speed: Speed | None = None,
) -> Training:
    s = task.student
    if rows is None:
        rows = min(round(queries * LABEL_SHARE), task.curriculum.max_rows or 10**12)
    speed = speed or assumed(s)
    read_tokens = round(speed.row_tokens or _row_tokens(task, tokens))
    steps = total_steps(rows, batch_size=s.batch_size, epochs=s.epochs, max_steps=s.max_steps)
    micro = -(-s.batch_size // (s.workers * s.accumulation))
    flops = estimate.training_flops(shape, steps * s.batch_size * read_tokens)
    return Training(
        rows=rows, tokens=read_tokens, trained=estimate.adapter_parameters(shape, s.lora), steps=steps,
        memory=estimate.training_memory(shape, s, micro * read_tokens), flops=flops,
        seconds=flops / speed.flops, speed=speed,
    )


def _assumed_rows(task: Task, rows: int) -> str:
    limited = rows == task.curriculum.max_rows
    return "curriculum.max_rows" if limited else f"assumed: {LABEL_SHARE:.0%} of the queries are kept"


def _row_tokens(task: Task, tokens: int) -> int:
    """Tokens of a training row: query, separator, a symbol or a second copy for each token, probes, and rewrites."""
    symbols = tokens if is_tagged(task, task.student.form) else 0
    return tokens + 1 + symbols + sum(_probes(r) for r in task.closed_roles) + _text_tokens(task, tokens)


def _text_tokens(task: Task, tokens: int) -> int:
    """Tokens of the rewrites of a query: the mean of `data.labels`, else as many as the roles may have, each a query.

    Raises:
        InputError: The labels cannot be read.
    """
    names = {r.name for r in task.text_roles}
    if not names:
        return 0
    data = task.data
    if data.dir and data.labels and (data.dir / data.labels).exists():
        from task.readers import read_labels

        rows = read_labels(data.dir / data.labels, task)
        texts = [x.text for row in rows for x in row.labels if x.role in names]
        written = sum(_LINE_TOKENS + len(t) / CHARS_PER_TOKEN for t in texts) / max(1, len(rows))
    else:
        written = sum(r.most_texts for r in task.text_roles) * (_LINE_TOKENS + tokens)
    return round(written) + 1  # the stop token


def _probes(role: Role) -> int:
    tree = tree_of(role.values, role.separator)
    return tree.depth if tree is not None else len(role.values) if role.multiple else 1


def training_estimate(task: Task, rows: int | None = None) -> Training | None:
    """The estimates of the training run; None for a base of unknown shapes. Raises like `make_plan`.

    Args:
        rows: Of a finished curriculum; None for the share of the queries that one usually keeps.
    """
    shape = estimate.architecture(task.student.base)
    if shape is None:
        return None
    queries, tokens, _ = _queries(task)
    return _training(task, shape, queries, tokens, rows)


def print_plan(loaded: LoadedTask, run: Run, standing: Standing) -> None:
    """Print the plan as a table, each figure with its basis."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Plan of {loaded.task.name} ({loaded.path})", title_justify="left")
    for column in ("stage", "what", "estimate", "basis"):
        table.add_column(column, overflow="fold")
    for section, lines in make_plan(loaded, run, standing).items():
        for number, line in enumerate(lines):
            table.add_row("" if number else section, line.name, line.value, line.basis, end_section=line is lines[-1])
    Console().print(table)


def _queries(task: Task) -> tuple[int, int, str]:
    """Number of queries, tokens of one, and where the number comes from."""
    data = task.data
    if data.sample:
        return data.sample_queries, QUERY_TOKENS, "data.sample_queries"
    name = data.queries or data.labels
    if data.dir and name and data.dir.exists():
        if not (data.dir / name).exists():
            raise InputError(
                "the task's queries are not in its folder", file=data.dir / name,
                field="data.queries" if data.queries else "data.labels", found="no such file",
                expected=f"a file or folder in {data.dir}",
                fix=where_instead(data.dir / name) or "Correct the name, or put the file there",
            )
        from task.readers import read_queries

        log = read_queries(data.dir / name)
        characters = sum(len(q.query) for q in log) / len(log)
        return len({q.query for q in log}), max(1, round(characters / CHARS_PER_TOKEN)), str(data.dir / name)
    return 8_000, QUERY_TOKENS, "the data is not here: 8,000 assumed"


def _student(task: Task, shape: estimate.Architecture, t: Training, *, known: bool) -> list[Line]:
    s = task.student
    rows = f"{t.rows:,} rows in the curriculum" if known else f"about {t.rows:,} rows, {_assumed_rows(task, t.rows)}"
    sizes = estimate.summary(shape, s)
    targets = s.lora.targets if isinstance(s.lora.targets, str) else ", ".join(s.lora.targets)
    return [
        Line("base", f"{s.base}, {shape.parameters / 1e6:,.0f} M weights", f"{shape.layers} layers of {shape.hidden}"),
        Line("trained", f"{t.trained:,} ({sizes['trained_share']:.2%})", f"LoRA rank {s.lora.rank}, {targets}"),
        Line("adapter", f"{sizes['adapter_bytes'] / 1e6:,.1f} MB", "fp32"),
        Line("steps", f"{t.steps:,} of {s.batch_size} rows", f"{rows}, {t.tokens} tokens each"),
        Line("memory", f"{sum(t.memory.values()):.1f} GiB a worker",
             ", ".join(f"{k} {v:.2f}" for k, v in t.memory.items())),
        Line("time", minutes(t.seconds), f"{t.flops / 1e12:,.0f} TFLOP; {t.speed.basis}"),
    ]


def _serving(task: Task, shape: estimate.Architecture, read_tokens: int) -> list[Line]:
    s = task.serving
    exported = is_wanted(task)
    gpu = task.student.use_gpu and not exported
    dtype = computed_in(s.dtype, gpu=gpu)
    memory = (
        estimate.openvino_memory(shape, dtype, int8=s.quantization == "int8") if exported
        else estimate.serving_memory(shape, dtype, s.max_num_seqs * read_tokens)
    )
    width = 4 if dtype == "float32" else 2
    bandwidth = 3.35e12 if gpu else 20e9
    seconds = shape.body * width / bandwidth
    parts = ", ".join(f"{k} {v:.2f}" for k, v in memory.items())
    return [
        Line("memory", f"{sum(memory.values()):.1f} GiB",
             f"the engine's process, {'OpenVINO' if exported else 'vLLM'}: {parts}"),
        Line("head cache", f"{s.head_queries:,} queries", "serving.head_queries"),
        Line("one forward pass", f"at least {seconds * 1e3:.1f} ms",
             f"weights read once at {bandwidth / 1e9:,.0f} GB/s; `read` needs one pass, each written token another"),
    ]
