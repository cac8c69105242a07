"""The training loop's invariants on a tiny Llama, without Ray."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.matching import count
from eval.metrics import micro
from student.adapters import load_adapter
from student.estimate import Architecture, architecture
from student.inference import predict, read_scores
from student.merging.merge import add_lora, merge
from student.merging.parity import parity
from student.merging.token_classifier import export_classifier
from student.model import TargetLogits, collate, load_base
from student.training import checkpoint
from student.training.job import TrainingJob
from student.training.train import train
from task.codec import Codec
from task.files import read_json
from task.labels import Doubt, Example, Label, ordered
from task.normalize import normaliser
from task.tokenizer import FastTokenizer
from task.training_row import TrainingRow
from tests.conftest import make_task

WORDS = ["oat", "milk", "verdant", "machine", "fresh", "cheap", "1l"]


def rows(n: int = 48) -> list[Example]:
    """Queries of uneven length: `verdant` is always a brand, `milk` always a product."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(n):
        words = list(rng.choice(WORDS, size=rng.integers(1, 8), replace=False))
        query, labels, at = " ".join(words), [], 0
        for w in words:
            role = {"verdant": "brand", "milk": "product"}.get(str(w))
            if role:
                labels.append(Label(role, str(w), at, at + len(w)))
            at += len(w) + 1
        labels += [Label("aisle", "dairy")] if "milk" in words else []
        out.append(Example(query, ordered(labels)))
    return out


def job(base: Path, folder: Path, tokenizer: FastTokenizer, form: str = "read", **student: Any) -> TrainingJob:
    settings = {
        "base": str(base), "form": form, "dtype": "float32", "batch_size": 8, "max_steps": 12, "epochs": 9,
        "warmup_steps": 2, "eval_every": 100, "save_every": 4, "learning_rate": 0.01, "lora": {"rank": 4, "alpha": 8},
    } | student
    task = make_task(student=settings)
    folder.mkdir(parents=True, exist_ok=True)
    learned = [TrainingRow(x) for x in rows()]
    return TrainingJob(task, base, Codec.compile(task, rows(), tokenizer), learned, rows(8), folder, reshuffle=True)


def losses(folder: Path) -> list[float]:
    return [json.loads(x)["loss"] for x in (folder / "history.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_the_adapter_is_the_one_with_the_best_dev_f1(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    """With a learning rate that is far too high the model gets worse, then training stops."""
    made = job(
        tiny_llama, tmp_path, tokenizer, max_steps=40, eval_every=2, early_stop=3, learning_rate=3.0,
        schedule="constant", warmup_steps=0,
    )
    train(made)
    history = [json.loads(x) for x in (tmp_path / "history.jsonl").read_text().splitlines()]
    scores = {h["step"]: h["dev_f1"] for h in history if "dev_f1" in h}
    order = read_json(tmp_path / "order.json")
    best = max(scores, key=lambda step: (scores[step], -step))
    assert order["adapter_of_step"] == best
    assert order["steps"] == history[-1]["step"] == best + 6 < 40
    assert order["sha256"] == order["planned"]
    kept = load_adapter(load_base(tiny_llama, torch.float32), tmp_path / "adapter")
    found = predict(kept, made.codec, tokenizer, made.task, made.dev)
    roles = [r.name for r in made.task.roles]
    table = count(made.dev, found, roles, "value", normaliser(made.task.normaliser))
    score = float(micro(table.sum(axis=0))[2])
    assert (0.0 if math.isnan(score) else score) == pytest.approx(scores[best], abs=1e-6)
    train(made)  # nothing is left to do
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == len(history)


def test_what_the_teacher_doubts_counts_less(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer) -> None:
    """Most rows label `milk` as a brand with low confidence: weighted they hardly count, masked not at all."""
    wrong = [
        Example(x.query, (dataclasses.replace(x.labels[0], role="brand", confidence=0.01),))
        for x in rows() if "milk" in x.query and "verdant" not in x.query
    ] * 3
    right = [Example(x.query, tuple(dataclasses.replace(y, confidence=0.99) for y in x.labels)) for x in rows()]
    found = {}
    for name, student in (("plain", {}), ("weighed", {"weighting": "confidence"}), ("masked", {})):
        made = job(tiny_llama, tmp_path / name, tokenizer, max_steps=60, **student)
        doubts = [tuple(Doubt.of(y) for y in x.labels) if name == "masked" else () for x in wrong]
        doubted = [TrainingRow(x, confidence=0.01, doubts=d) for x, d in zip(wrong, doubts, strict=True)]
        made = dataclasses.replace(made, train=[*(TrainingRow(x, confidence=0.99) for x in right), *doubted])
        train(made)
        model = load_adapter(load_base(tiny_llama, torch.float32), made.folder / "adapter")
        answers = predict(model, made.codec, tokenizer, made.task, rows())
        same = [
            {y.key for y in a.labels if y.start is not None} == {y.key for y in b.labels if y.start is not None}
            for a, b in zip(answers, rows(), strict=True)
        ]
        found[name] = sum(same) / len(same)
    assert found["weighed"] > 0.9 > found["plain"]
    assert found["masked"] > 0.9


@pytest.mark.parametrize("form", ["read", "write", "json"])
def test_every_form_learns(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer, form: str) -> None:
    train(job(tiny_llama, tmp_path, tokenizer, form, max_steps=25))
    assert losses(tmp_path)[-1] < 0.7 * losses(tmp_path)[0]


def test_batch_8x1_equals_1x8_on_uneven_lengths(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer) -> None:
    for name, accumulation in (("one", 1), ("eight", 8)):
        train(job(tiny_llama, tmp_path / name, tokenizer, accumulation=accumulation))
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "eight"), rel=1e-4)


def test_a_run_that_was_cut_goes_on_exactly(tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer) -> None:
    """Killed after step 6, with the last complete checkpoint at 4, an incomplete one and half a history line."""
    whole, cut = (job(tiny_llama, tmp_path / n, tokenizer, lora={"rank": 4, "dropout": 0.1}) for n in ("whole", "cut"))
    train(whole)
    train(cut)
    shutil.rmtree(cut.folder / "adapter")
    lines = (cut.folder / "history.jsonl").read_text().splitlines(keepends=True)
    train_again_from(cut, step=4, lines="".join(lines[:6]) + '{"step": 7, "lo')
    train(cut)
    assert losses(cut.folder) == losses(whole.folder)
    assert read_json(cut.folder / "order.json") == read_json(whole.folder / "order.json")
    a, b = weights(whole.folder), weights(cut.folder)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_what_a_kill_before_the_first_checkpoint_left_is_not_history(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    whole, cut = (job(tiny_llama, tmp_path / name, tokenizer) for name in ("whole", "cut"))
    train(whole)
    lines = (whole.folder / "history.jsonl").read_text().splitlines(keepends=True)
    (cut.folder / "history.jsonl").write_text("".join(lines[:1]) + '{"step": 2, "lo')
    train(cut)
    assert losses(cut.folder) == losses(whole.folder)


def train_again_from(done: TrainingJob, step: int, lines: str) -> None:
    """Rewind a finished run's folder to how a kill would have left it."""
    (done.folder / "history.jsonl").write_text(lines)
    checkpoints = done.folder / "checkpoints"
    shutil.rmtree(checkpoints)
    _run_to(dataclasses.replace(done), step)
    half = checkpoints / f"step-{step + 2:06d}"
    shutil.copytree(checkpoint.newest(checkpoints), half)  # type: ignore[arg-type]
    (half / checkpoint.MARKER).unlink()


def _run_to(j: TrainingJob, step: int) -> None:
    """Run in another folder and copy its checkpoint of `step`."""
    other = dataclasses.replace(j, folder=j.folder.with_name("rerun"))
    other.folder.mkdir()
    kept: list[Path] = []
    real = checkpoint.save

    def save(folder: Path, at: int, *rest: Any) -> Path:
        path = real(folder, at, *rest)
        if at == step:
            kept.append(Path(shutil.copytree(path, j.folder / "checkpoints" / path.name)))
        return path

    checkpoint.save = save
    try:
        train(other)
    finally:
        checkpoint.save = real
    assert kept


def test_the_order_that_reached_the_optimiser_is_the_plan(
    tiny_llama: Path, tmp_path: Path, tokenizer: FastTokenizer
) -> None:
    train(job(tiny_llama, tmp_path, tokenizer))
    order = read_json(tmp_path / "order.json")
    assert order["sha256"] == order["planned"]


def test_padding_changes_nothing(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    task = make_task()
    codec = Codec.compile(task, rows(), tokenizer)
    model = load_base(tiny_llama, torch.float32).eval()
    queries = [x.query for x in rows(8)]
    with torch.no_grad():
        together = read_scores(model, codec, tokenizer, queries)
        alone = [read_scores(model, codec, tokenizer, [q])[0] for q in queries]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_target_logits_equal_the_models_own(tiny_llama: Path, tokenizer: FastTokenizer) -> None:
    codec = Codec.compile(make_task(), rows(), tokenizer)
    model = load_base(tiny_llama, torch.float32).eval()
    ids, r, c, _ = collate([codec.encode(x, tokenizer) for x in rows(4)])
    with torch.no_grad():
        whole = model(input_ids=ids).logits[r, c]
        assert torch.allclose(TargetLogits(model, None)(ids, rows=r, columns=c), whole, atol=1e-5)
        part = TargetLogits(model, codec.symbol_ids)(ids, rows=r, columns=c)
    assert torch.allclose(part, whole[:, list(codec.symbol_ids)], atol=1e-5)


@pytest.fixture(scope="module", params=["tied", "untied"])
def trained(
    request: pytest.FixtureRequest, tiny_llama: Path, tiny_llama_untied: Path,
    tmp_path_factory: pytest.TempPathFactory, tokenizer: FastTokenizer,
) -> tuple[TrainingJob, Path]:
    """A trained adapter and its merged model, for a base with tied and with untied embeddings."""
    base = tiny_llama if request.param == "tied" else tiny_llama_untied
    folder = tmp_path_factory.mktemp(request.param)
    made = job(base, folder, tokenizer, max_steps=80)
    train(made)
    assert merge(base=base, adapter=folder / "adapter", out=folder / "merged") == 14
    return made, folder / "merged"


def test_merged_answers_as_trained(trained: tuple[TrainingJob, Path], tokenizer: FastTokenizer) -> None:
    made, merged = trained
    given = {"base": made.base, "adapter": made.folder / "adapter", "codec": made.codec, "tokenizer": tokenizer}
    report = parity(**given, merged=merged, examples=rows())
    assert report["label_agreement"] == 1.0
    assert report["max_logit_delta"] < 0.2  # bf16 keeps 8 bits
    assert report["mean_kl"] < 1e-3
    other = merged.with_name("perturbed")
    shutil.copytree(merged, other, dirs_exist_ok=True)
    from safetensors.torch import save_file

    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] += 0.05 * torch.randn(128, 256)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    worse = parity(**given, merged=other, examples=rows())
    assert worse["max_logit_delta"] > 5 * report["max_logit_delta"]


@pytest.mark.parametrize("form", ["read", "write", "json"])
def test_parity_is_that_of_all_scores_at_once(
    form: str, trained: tuple[TrainingJob, Path], tokenizer: FastTokenizer
) -> None:
    """Batches are compared one by one, since a whole vocabulary's scores of all rows would not fit in memory."""
    made, merged = trained
    codec, many = dataclasses.replace(made.codec, form=form), rows() * 4
    report = parity(
        base=made.base, adapter=made.folder / "adapter", merged=merged, codec=codec, tokenizer=tokenizer, examples=many
    )
    alphabet = None if form == "json" else codec.symbol_ids
    ids, at, columns, _ = collate([codec.encode(x, tokenizer) for x in many])
    one, other = (
        TargetLogits(model.eval(), alphabet)(ids, rows=at, columns=columns).detach().double()
        for model in (
            load_adapter(load_base(made.base, torch.float32), made.folder / "adapter"),
            load_base(merged, torch.float32),
        )
    )
    delta = (one - other).abs()
    assert report["max_logit_delta"] == pytest.approx(float(delta.max()), abs=1e-4)
    assert report["mean_logit_delta"] == pytest.approx(float(delta.mean()), abs=1e-5)
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    assert report["mean_kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=0.01, abs=1e-7)
    assert not list(merged.parent.glob(".parity-*"))


def test_merging_adds_in_fp32_and_casts_once() -> None:
    w = torch.randn(8, 6).to(torch.bfloat16)
    a, b = torch.randn(2, 6), torch.randn(8, 2)
    assert torch.equal(add_lora(w, a=a, b=b, scale=0.5), (w.float() + 0.5 * b @ a).to(torch.bfloat16))


def test_the_merge_leaves_everything_else_alone(trained: tuple[TrainingJob, Path]) -> None:
    made, merged = trained
    base, out = load_file(made.base / "model.safetensors"), load_file(merged / "model.safetensors")
    changed = {k for k in base if not torch.equal(base[k], out[k])}
    assert base.keys() == out.keys()
    assert len(changed) == 14
    assert all("_proj" in k for k in changed)
    assert (merged / "tokenizer.json").read_bytes() == (made.base / "tokenizer.json").read_bytes()


def test_the_classifier_reads_what_the_language_model_reads(
    trained: tuple[TrainingJob, Path], tokenizer: FastTokenizer
) -> None:
    from transformers import LlamaForSequenceClassification

    made, merged = trained
    out = merged.with_name("classifier")
    export_classifier(merged, made.codec.symbol_ids, out)
    classifier = LlamaForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    model = load_base(merged, torch.float32).eval()
    prompt = made.codec.prompt("verdant oat milk", tokenizer)
    with torch.no_grad():
        hidden = classifier.model(input_ids=torch.tensor([prompt.ids])).last_hidden_state[0, prompt.positions]
        scores = classifier.score(hidden).numpy()
        (expected,) = read_scores(model, made.codec, tokenizer, ["verdant oat milk"])
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_trained_student_predicts(trained: tuple[TrainingJob, Path], tokenizer: FastTokenizer) -> None:
    made, merged = trained
    found = predict(load_base(merged, torch.float32), made.codec, tokenizer, made.task, rows())
    assert [f.query for f in found] == [x.query for x in rows()]
    right = sum({x.key for x in f.labels} == {x.key for x in g.labels} for f, g in zip(found, rows(), strict=True))
    assert right / len(found) > 0.8


def test_the_models_size_is_known_to_the_parameter(tiny_llama: Path) -> None:
    shape = architecture(str(tiny_llama))
    assert isinstance(shape, Architecture)
    assert shape.parameters == sum(p.numel() for p in load_base(tiny_llama, torch.float32).parameters())


def test_a_checkpoint_without_its_marker_is_passed_over(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for step, complete in ((2, True), (4, True), (6, False)):
        folder = tmp_path / f"step-{step:06d}"
        folder.mkdir()
        if complete:
            (folder / checkpoint.MARKER).touch()
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.name == "step-000004"


def test_a_saved_adapter_loads(trained: tuple[TrainingJob, Path]) -> None:
    made, _ = trained
    model = load_adapter(load_base(made.base, torch.float32), made.folder / "adapter")
    assert any("lora_A" in n for n, _ in model.named_parameters())
