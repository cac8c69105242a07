"""The report: the page has the numbers of the JSON, fetches nothing, and says first what matters."""

from __future__ import annotations

import copy
import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.annotator_agreement import ceiling
from eval.arrivals import poisson
from eval.calibration import assess
from eval.cost import Measured, cost
from eval.error_analysis import by_kind
from eval.formatting import dollars, milliseconds, percent, points
from eval.gate import Agreement, GateEvidence, judge
from eval.headline import headline
from eval.latency import percentiles, summarise
from eval.latency_schema import LatencyBench
from eval.load_samples import Samples
from eval.quality import by_slice, paired, quality
from eval.report import write, write_bench, write_comparison
from eval.report_changes import changes
from eval.report_schema import SCHEMA, Report, read_report
from eval.slices import slices_of
from limbeck.operations.tables import print_summary, render
from task.files import read_json
from task.settings import Cost, Gates
from tests.conftest import make_task
from tests.eval.schema import mismatches
from tests.eval.test_matching import random_rows

SERVED = "student, merged and served"


def samples(seed: int) -> tuple[Any, Samples]:
    rng = np.random.default_rng(seed)
    plan = poisson(50, 8, [f"q{i}" for i in range(300)], seed, hits=["h"], hit_share=0.5)
    n = len(plan)
    latency = np.where(plan.use_cache, rng.exponential(0.002, n), 0.05 + rng.exponential(0.01, n))
    none = np.zeros(n, dtype=np.int64)
    return plan, Samples(
        plan.at, np.full(n, 0.0002), latency, np.full(n, np.nan), none, np.full(n, 200), plan.use_cache,
        none.astype(bool), np.zeros(1),
    )


def form(name: str, seconds: float) -> dict[str, Any]:
    return {
        "form": name, "steps": 120, "answer_tokens": 4.0, "rows": 400, "f1": {"value": 0.8, "low": 0.7, "high": 0.9},
        "latency": percentiles([seconds] * 60), "merge_label_agreement": 1.0, "times_read": 1.0,
    }


@pytest.fixture(scope="module")
def content() -> tuple[dict[str, Any], dict[str, list[Samples]]]:
    """A report's content from made-up predictions, by the code that fills a real one."""
    task = make_task(eval={"resamples": 200})
    gold, predicted = random_rows(0, 400)
    student = [p if i % 3 == 0 else g for i, (g, p) in enumerate(zip(gold, predicted, strict=True))]
    cut = slices_of(gold, task, log=[*gold[:100], gold[0].__class__("x", count=7)], train=gold[:200])
    runs = [samples(i) for i in range(5)]
    steady = summarise(runs, slo_ms=100)
    checks = judge(Gates(min_f1=0.99, max_ece=0.5), GateEvidence(
        f1=quality(gold, student, task)["value"]["f1"], engine_agreement=Agreement(1.0, 400, "200 gold queries"),
        invalid={"value": 0, "low": 0, "high": 0},
    ))
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.8
    single = percentiles([0.05] * 60)
    bench = {
        "schema": 1, "url": "", "api": "label", "model": None, "single": 60, "cold": single, "warm_prefix": single,
        "steady": steady | {"arrivals": "poisson", "queries_repeated": 0.0, "processes": 1}, "sweep": None, "slo": None,
    }
    differences = [{
        "a": "student", "b": "teacher", **paired(gold, student, gold, task),
        "slices": by_slice(gold, student, gold, task, slices=cut, rows=range(400)),
    }]
    found = {
        "schema": SCHEMA, "task": "toy <script>", "finished": "now",
        "headline": headline([c.to_json() for c in checks], differences),
        "bundle": {"id": "0", "model": "m", "form": "read"}, "constrained": True,
        "verdict": [c.to_json() for c in checks], "confidence": 0.95, "resamples": 200, "interval": "percentile",
        "systems": {
            "teacher": quality(gold, gold, task, slices=cut),
            SERVED: quality(gold, student, task, slices=cut, invalid=[None] * 398 + ["rule"] * 2),
        },
        "served": SERVED, "people": ceiling(gold, [gold, predicted], task), "copied": quality(gold, student, task),
        "differences": differences,
        "teacher_confidence": None, "student_confidence": assess(rng.random(400), right, range(400), resamples=50),
        "idle": single, "latency": bench["steady"], "bench": bench,
        "cost": cost(Measured(100, 5.0, {"label": 1, "train": 1}, 10.0, [9, 3, 1], 400.0), Cost(), {"cores": 2}, 1),
        "forgetting": {"perplexity": {"base": 40.0, "merged": 44.0, "ratio": 1.1, "tokens": 9}, "chat": None},
        "forms": [form("read", 0.05), form("json", 1.5)],
        "history": [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, "dev_f1": 0.4}],
        "mistakes": by_kind(gold, student, task), "errors": [{
            "query": "oat <b>milk", "slice": "tail", "kind": "role", "gold": "a", "teacher": "b", "student": "c",
            "evidence": "items: d",
        }],
        "training": [], "stages": [{"name": "label", "wall_s": 1.0, "figures": {"rows": 1}}],
        "versions": {"limbeck": "0"}, "device": {"cpu": "x", "cores": 2, "memory_gib": 1}, "git": None,
        "note": "people agree at 58",
    }
    before = json.loads(json.dumps(found))
    before["systems"][SERVED]["value"]["f1"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    found["changes"] = changes(before, found)
    return found, {"steady": [s for _, s in runs]}


@pytest.fixture(scope="module")
def written(content: tuple[dict[str, Any], dict[str, list[Samples]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder, *content)
    return folder


def test_every_figure_of_the_json_that_the_page_shows_is_the_same(written: Path) -> None:
    page = html.unescape((written / "report.html").read_text())
    report = read_json(written / "report.json")
    assert report["schema"] == SCHEMA
    served = report["systems"][SERVED]
    shown = [s["value"][k] for s in report["systems"].values() for k in ("precision", "recall", "f1", "macro_f1")]
    shown += [served[k]["f1"] for k in ("raw", "span", "exact", "partial", "type")]
    shown += [part["f1"] for cut in served["slices"].values() for part in cut.values()]
    shown += [r["f1"] for r in served["value"]["roles"].values()]
    shown += [*report["people"]["between"], *report["people"]["gold"]]
    shown += [report["differences"][0]["f1"], report["student_confidence"]["ece"], served["invalid"]]
    assert len(shown) > 25
    for figure in shown:
        assert percent(figure) in page
    assert f"Invalid answers: {percent(served['invalid'])} % (rule 2). The labels of this answer form are" in page
    for kind in ("hit", "miss", "blended"):
        p50 = report["latency"][kind]["p50_ms"]
        assert f"{p50['value']:.1f} [{p50['low']:.1f}, {p50['high']:.1f}]" in page


def test_a_report_has_exactly_the_keys_and_types_of_the_schema(written: Path) -> None:
    report = read_json(written / "report.json")
    assert not mismatches(report, Report)
    assert not mismatches(report["bench"], LatencyBench)
    del report["systems"][SERVED]["value"]["f1"]["low"]
    report["cost"]["extra"] = 1
    report["served"] = None
    assert mismatches(report, Report) == [
        f"systems.{SERVED}.value.f1: keys {{'low'}}", "served: None", "cost: keys {'extra'}",
    ]


@pytest.mark.parametrize(("name", "schema"), [("market", 3), ("queryner", 2)])
def test_a_kept_report_is_read_and_one_of_another_schema_is_not(name: str, schema: int, tmp_path: Path) -> None:
    """Kept results lack the learning curve, the single errors and, from before they were reported, the annotators."""
    kept = Path(f"benchmarks/results/{name}.json")
    report = read_report(kept)
    assert report is not None
    assert report["schema"] == schema  # 3 has more keys, none of them required
    assert mismatches({**report, "history": [], "errors": [], "people": None}, Report) == []
    assert f"| {SERVED} |" in render(kept)
    (tmp_path / "report.json").write_text(json.dumps({**report, "schema": 1}))
    assert read_report(tmp_path / "report.json") is None
    assert read_report(tmp_path / "none.json") is None


def test_the_page_stands_alone_and_is_small(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert len(page) < 2_000_000
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", "").replace("https://matplotlib.org", "")
    assert "<script src" not in page
    assert "<link" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_verdict_comes_first_and_names_the_rule_that_failed(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert page.index("does not pass the gate") < page.index('<h2 id="quality"')
    assert "gate min_f1" in page
    assert "people agree at 58" in page


def test_the_answer_stands_above_everything_with_its_figures(written: Path) -> None:
    report = read_json(written / "report.json")
    page = (written / "report.html").read_text()
    top = html.unescape(page[page.index("<h1>") : page.index('<p class="contents">')])
    assert "May the student replace the teacher? No." in top
    assert report["headline"]["why"][0] in top
    assert points(report["differences"][0]["f1"]) in top
    for kind in ("hit", "miss"):
        for percentile in ("p50_ms", "p99_ms"):
            assert milliseconds(report["latency"][kind][percentile]) in top
    for money in ("teacher", "served"):
        assert dollars(report["cost"]["per_million"][money]) in top
    assert f"{report['cost']['break_even']['queries']:,} queries" in top
    summary = (written / "report.md").read_text()
    assert "May the student replace the teacher? No." in summary
    assert summary.index("replace the teacher") < summary.index("| system |")


def test_the_contents_lead_to_every_section(written: Path) -> None:
    page = (written / "report.html").read_text()
    contents = page[page.index('<p class="contents">') :].partition("</p>")[0]
    headings = re.findall(r"<h2[^>]*>", page)
    assert len(headings) > 9
    assert [f'<h2 id="{x}">' for x in re.findall(r'href="#([^"]+)"', contents)] == headings


def test_every_plot_is_drawn_for_a_wide_and_for_a_narrow_screen(written: Path) -> None:
    """Scaled to a page, or to a screen of 400 pixels, text of 9 points keeps at least nine tenths of its size."""
    page = (written / "report.html").read_text()
    for name, screen in (("wide", 1170), ("narrow", 368)):
        widths = re.findall(rf'<div class="plot {name}"><svg[^>]* width="([\d.]+)pt"', page)
        assert len(widths) == page.count(f'<div class="plot {name}">') > 5
        assert all(screen / (float(x) * 96 / 72) > 0.9 for x in widths)
    narrow = page[page.index("@media (max-width: 45rem)") :]
    assert ".plot svg { width: 100%; }" in page
    assert ".narrow { display: none; }" in page[: page.index("@media (max-width: 45rem)")]
    assert ".wide { display: none; } .narrow { display: block; }" in narrow
    parts = {n: "".join(re.findall(rf'<div class="plot {n}">(.*?)</div>', page, re.DOTALL)) for n in ("wide", "narrow")}
    ids = [set(re.findall(r'<clipPath id="(\w+)"', part)) for part in parts.values()]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_plots_show_differences_by_role_and_slice(written: Path) -> None:
    page, first = (written / "report.html").read_text(), read_json(written / "report.json")["differences"][0]
    quality_part = page[page.index('<h2 id="quality"') : page.index('<h2 id="latency"')]
    assert quality_part.count("ΔF1 against the teacher, points") == 2 * (1 + len(first["slices"]))
    assert set(first["slices"]) >= {"words", "labels", "values"}
    whole = first["f1"]["value"]
    assert min(p["value"] for p in first["slices"]["words"].values()) <= whole
    assert max(p["value"] for p in first["slices"]["words"].values()) >= whole


def test_without_a_system_to_compare_with_f1_is_drawn(
    content: tuple[dict[str, Any], dict[str, list[Samples]]], tmp_path: Path
) -> None:
    found = content[0] | {"differences": [], "headline": headline([], [], ["not compared: <imported>"])}
    write(tmp_path, found, {})  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text()
    assert "Not shown." in page
    assert "not compared: &lt;imported&gt;" in page
    assert "compared with no other system" in page
    assert page.count(">F1, %<") >= 2


def test_answer_forms_are_drawn_with_what_they_cost_and_are_worth(written: Path) -> None:
    assert "median latency, milliseconds" in (written / "report.html").read_text()


def test_what_queries_hold_is_text_and_not_markup(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "oat &lt;b&gt;milk" in page
    assert "toy <script>" not in page


def test_the_table_has_every_figure(written: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((written / "report.csv").read_text())))
    report = read_json(written / "report.json")
    found = {(r["system"], r["scheme"], r["part"], r["figure"]): r["value"] for r in rows}
    assert float(found[SERVED, "value", "all", "f1"]) == report["systems"][SERVED]["value"]["f1"]["value"]
    role = report["systems"]["teacher"]["span"]["roles"]["brand"]["recall"]["value"]
    assert float(found["teacher", "span", "role brand", "recall"]) == role
    assert float(found[SERVED, "latency", "miss", "p50_ms"]) == report["latency"]["miss"]["p50_ms"]["value"]
    assert any(k[2].startswith("values ") for k in found)


def test_a_taxonomy_is_shown_level_by_level(
    content: tuple[dict[str, Any], dict[str, list[Samples]]], tmp_path: Path
) -> None:
    def level(f1: float) -> dict[str, Any]:
        figure = {"value": f1, "low": f1 - 0.01, "high": f1 + 0.01}
        return {"support": 40, "precision": figure, "recall": figure, "f1": figure}

    found, raw = copy.deepcopy(content)
    found["systems"][SERVED]["taxonomies"] = {"category": {"leaf": level(0.81), "levels": [level(0.93), level(0.82)]}}
    write(tmp_path, found, raw)
    page, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    for place, f1 in (("leaf", 0.81), ("level 1", 0.93), ("level 2", 0.82)):
        shown = percent(level(f1)["f1"])
        assert f"<tr><td>{place}</td><td>40</td>{3 * f'<td>{shown}</td>'}</tr>" in page
        assert f"| {place} | 40 | {shown} | {shown} | {shown} |" in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    f1_of = {r["part"]: float(r["value"]) for r in rows if "role category" in r["part"] and r["figure"] == "f1"}
    assert f1_of == {"role category, leaf": 0.81, "role category, level 1": 0.93, "role category, level 2": 0.82}
    assert not mismatches(read_json(tmp_path / "report.json"), Report)


def test_the_summary_for_a_pull_request_is_a_table(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert text.startswith("## toy <script>: the student does not pass the gate")
    assert f"| {SERVED} | 400 |" in text


def test_the_terminal_says_the_answer_too(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(written)
    assert "May the student replace the teacher? No: F1 " in capsys.readouterr().out


def test_what_changed_since_an_earlier_report(written: Path) -> None:
    found = read_json(written / "report.json")["changes"]["rows"]
    assert [r["what"] for r in found if r["clear"]] == [f"{SERVED}: f1"]
    assert "20.0 [10.0, 30.0]" in (written / "report.html").read_text()


def test_raw_samples_are_kept(written: Path, content: tuple[dict[str, Any], dict[str, list[Samples]]]) -> None:
    kept = np.load(written / "samples.npz")
    assert np.array_equal(kept["steady.3.latency"], content[1]["steady"][3].latency)


def test_a_benchmarks_page(tmp_path: Path) -> None:
    runs = [samples(i) for i in range(2)]
    steady = summarise(runs, slo_ms=100) | {"arrivals": "poisson", "queries_repeated": 0.1, "processes": 1}
    rate = summarise(runs[:1]) | {"rate": 50.0, "holds": True}
    found = {
        "schema": 1, "url": "http://x", "api": "label", "model": None, "single": 5, "cold": percentiles([0.1] * 9),
        "warm_prefix": percentiles([0.1] * 9), "steady": steady, "slo": {
            "ms": 100, "percentile": "p95", "measured": steady["blended"]["p95_ms"], "ok": True,
        }, "sweep": {"rates": [rate, rate | {"rate": 80.0, "holds": False}], "sustained": 50.0, "limit": "server",
                     "seconds": 5},
    }
    write_bench(tmp_path, found, {"steady": [s for _, s in runs]})
    page = (tmp_path / "bench.html").read_text()
    assert "highest sustained rate: <b>50.0</b>" in page
    assert json.loads((tmp_path / "bench.json").read_text())["steady"]["valid"]


def test_a_comparisons_page_marks_what_nothing_beats(tmp_path: Path) -> None:
    task = make_task(eval={"resamples": 50})
    gold, predicted = random_rows(1, 100)
    systems = [{
        "name": name, "kind": "bundle", "source": name, "f1": quality(gold, rows, task)["value"]["f1"],
        "quality": quality(gold, rows, task, invalid=[None] * 100), "latency": percentiles([0.05] * 60),
        "p50_ms": percentiles([0.05] * 60)["p50_ms"], "best": name == "a", "slower_than_first": None,
        "less_first": None if name == "a" else paired(gold, rows, gold, task),
    } for name, rows in (("a", gold), ("b|c", predicted))]
    write_comparison(tmp_path, {
        "task": "toy", "rows": 100, "first": "a", "resamples": 50, "confidence": 0.95, "pairs": 10, "systems": systems,
        "finished": "now", "versions": {}, "device": {"cpu": "x", "cores": 2}, "git": None,
    })
    assert "★ a" in (tmp_path / "comparison.html").read_text()
    assert "b\\|c" in (tmp_path / "comparison.md").read_text()
