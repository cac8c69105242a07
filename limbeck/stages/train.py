"""`train`: curriculum → adapter, under Ray Train."""

from __future__ import annotations

import shutil
from pathlib import Path

from limbeck.artefacts import TrainFolder
from limbeck.plan import beside
from limbeck.run import Run
from limbeck.stage import Figures, Stage
from limbeck.stages import cross_fit
from limbeck.staleness import settings_of_training
from limbeck.student_jobs import TRAINING_SCRATCH, make_job, training_rules
from student.training.order import how_to_train_longer, total_steps
from task.errors import warn
from task.files import read_json, sha256_file, write_json, write_text
from task.spec import Task

_WEIGHTS, _OPTIONS = "init_adapter", "init_adapter options"  # the scale is among the options


def stage(name: str = "train") -> Stage:
    """The stage, or under another name one that trains a variant of the task."""
    return Stage(
        name=name, config=_config, inputs=_inputs, rules=training_rules, work=_work, headline=_headline,
        scratch=TRAINING_SCRATCH, phase="train",
    )


def _source(run: Run) -> str:
    """The stage whose rows are learned."""
    return cross_fit.STAGE.name if cross_fit.STAGE.wanted(run.task) else "curriculum"


def _config(run: Run) -> object:
    return settings_of_training(run.task) | {"order": run.task.curriculum.order}


def _inputs(run: Run) -> dict[str, str]:
    inputs = {"curriculum": run.digest(_source(run))}
    earlier = run.task.student.init_adapter
    for name, file in ((_WEIGHTS, "adapter_model.safetensors"), (_OPTIONS, "adapter_config.json")):
        if earlier and (Path(earlier) / file).exists():
            inputs[name] = sha256_file(Path(earlier) / file)
    return inputs


def _work(run: Run, folder: Path) -> Figures:
    from eval.drawing import WIDE
    from eval.plots import learning_curve
    from student.training.launch import launch
    from teacher.curriculum.rows import read

    task, files = run.task, TrainFolder(folder)
    run.progress.begin("fetching the base model")
    source = run.finished(_source(run))
    rows = read(source, "train")
    dev = [r.example for r in read(source, "dev")]
    job = make_job(task, rows, dev, folder, task.curriculum.order)
    write_json(files.codec, job.codec.to_json())
    _tell_of_warm_up(task, len(job.train))
    history = launch(job, run.progress)
    order = read_json(files.order)
    if order["sha256"] != order["planned"]:
        raise RuntimeError("the order that reached the optimiser is not the curriculum's")
    files.remove_temporary()
    shutil.copy2(files.history, files.curve)
    write_text(files.plot, learning_curve(WIDE, history))
    write_json(files.resources, beside(task, read_json(files.measured)))
    scores = [h["dev_f1"] for h in history if "dev_f1" in h]
    figures = {
        "base": task.student.base, "form": job.codec.form, "segmentation": job.codec.segmentation,
        "rows": len(job.train), "not_representable": len(rows) - len(job.train),
        "steps": len(history), "loss": history[-1]["loss"], "adapter_of_step": order["adapter_of_step"],
        "dev_f1": (max(scores) if task.student.keep_best else scores[-1]) if scores else None,
        "examples_per_s": round(sum(h["rows"] for h in history) / sum(h["seconds"] for h in history), 2),
    }
    write_text(files.adapter / "README.md", adapter_card(task, figures))
    return figures


def _tell_of_warm_up(task: Task, rows: int) -> None:
    """Say so before a training that ends before its learning rate has been reached."""
    s = task.student
    steps = total_steps(rows, batch_size=s.batch_size, epochs=s.epochs, max_steps=s.max_steps)
    if steps <= s.warmup_steps:
        warn(
            f"the training has {steps} steps, all of them within the warm-up: student.learning_rate is never reached",
            field="student.warmup_steps", found=s.warmup_steps, expected=f"fewer than {steps}",
            fix=how_to_train_longer(rows, s),
        )


def adapter_card(task: Task, figures: Figures) -> str:
    """The adapter's README.md, in place of PEFT's empty template: what it is for, and how it was trained."""
    base = Path(task.student.base).name if Path(task.student.base).is_absolute() else task.student.base
    kind = str(task.student.peft["peft_type"]) if task.student.peft else f"LoRA, rank {task.student.lora.rank}"
    score = "not measured" if figures["dev_f1"] is None else f"{100 * figures['dev_f1']:.1f} %"
    roles = ", ".join(f"`{r.name}`" for r in task.roles)
    return "\n".join([
        "---", "library_name: peft", f"base_model: {base}", "---", "",
        f"# Adapter of the task `{task.name}`", "",
        f"{task.description or 'Labels of search queries'}: {roles}.", "",
        "| | |", "|---|---|", f"| base | {base} |", f"| method | {kind} |", f"| answer form | `{figures['form']}` |",
        f"| rows | {figures['rows']:,} |", f"| steps | {figures['steps']:,} |",
        f"| adapter of step | {figures['adapter_of_step']:,} |", f"| last training loss | {figures['loss']:.4f} |",
        f"| F1 on development rows | {score} |", "",
        "The symbols that it answers with are in `codec.json` beside this folder; `limbeck merge` and `limbeck bundle`",
        "make of it what is served. `../curve.svg` is its learning curve.", "",
    ])


def _headline(figures: Figures) -> str:
    score = "" if figures["dev_f1"] is None else f", dev F1 {100 * figures['dev_f1']:.1f}"
    return f"{figures['steps']:,} steps, loss {figures['loss']:.3f}{score}"


STAGE = stage()
