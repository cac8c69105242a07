"""`sample`: the made-up market, for a task that asks for one."""

from __future__ import annotations

from pathlib import Path

from limbeck.run import Run
from limbeck.stage import Figures, Stage
from task.files import sha256_file, sha256_json


def _settings(run: Run) -> dict[str, int]:
    data = run.task.data
    settings = {"seed": data.seed, "queries": data.sample_queries, "items": data.sample_items}
    return settings | ({"month": data.sample_month} if data.sample_month else {})


def _inputs(_run: Run) -> dict[str, str]:
    """The generator's own code and lists: changed ones generate another market."""
    import samples.market

    folder = Path(samples.market.__file__).parent
    sources = sorted(p for p in folder.iterdir() if p.suffix in {".py", ".yaml"})
    return {"generator": sha256_json({p.name: sha256_file(p) for p in sources})}


def _work(run: Run, folder: Path) -> Figures:
    from samples.market.months import write_month

    return write_month(folder, **{"month": 0, **_settings(run)})


STAGE = Stage(
    name="sample", config=_settings, inputs=_inputs, work=_work, wanted=lambda task: task.data.sample is not None,
    headline=lambda f: ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in f.items()),
)
