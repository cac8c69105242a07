"""Commands of operators: serve, predict, release, roll back, verify, create keys, purge."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.commands.options import RUNS

app = typer.Typer()
PANEL = "Operations"


def _not_around_a_bundle(given: Path) -> Path:
    """A bundle's folder as given. Raises `InputError` for a folder of a run, in which a bundle is."""
    from task.errors import InputError

    below = (given, given / "bundle" / "bundle", given / "bundle")
    inside = next((p for p in below if (p / "manifest.json").exists() and (p / "codec.json").exists()), given)
    if inside != given:
        raise InputError(
            "no bundle here, but in a folder of it", file=given, expected="a bundle's own folder", fix=f"Give {inside}"
        )
    return given


BundleFolder = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", help="A bundle folder, runs/NAME/bundle/bundle", callback=_not_around_a_bundle,
    ),
]
PointerFile = Annotated[Path, typer.Argument(metavar="POINTER", help="The release pointer, such as live.json")]
AdminUrl = Annotated[str, typer.Option("--admin", help="The operators' port of `limbeck serve`")]
ADMIN = "http://127.0.0.1:8081"


@app.command(rich_help_panel=PANEL)
def serve(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE|POINTER", help="A bundle folder, or a pointer to follow", callback=_not_around_a_bundle
        ),
    ],
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 chooses a free one")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Operators' port on loopback; 0 chooses a free one")] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway processes", min=1)] = None,
    state: Annotated[Path, typer.Option(help="State folder: logs, status.json, kept answers")]
    = Path("limbeck-serve"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Override a `serving` setting of the bundle; repeatable"),
    ] = None,
) -> None:
    """Serve a bundle over HTTP: its engine on loopback, head cache and gateway in front.

    With a release pointer the service follows it: `limbeck release` and `limbeck rollback` change what is served
    without a failed request. Settings not given here are those of the bundle's `serving` section.
    """
    from serving.service import serve as run
    from task.load import override_serving

    given = {"host": host, "port": port, "admin_port": admin_port, "workers": workers}
    flags = [f"{k}={v}" for k, v in given.items() if v is not None]
    run(source, state=state, override=lambda settings: override_serving(settings, [*(set_ or ()), *flags]))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Tables as CSV, TSV, JSON lines or Parquet")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The task file to write; default: the folder's name with .yaml")
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option("--prompt", help="A Jinja template, for an LLM as teacher")
    ] = None,
) -> None:
    """Draft a task file from a folder of queries, items, purchases and labels; says what each guess rests on.

    Nothing is overwritten, and the tables stay as they are: one whose columns have other names is copied beside the
    task file.
    """
    from limbeck.operations.draft import draft, render

    target = out or Path(f"{folder.resolve().name}.yaml")
    print(render(draft(folder, target, prompt), target))


@app.command(rich_help_panel=PANEL)
def predict(
    folder: BundleFolder,
    source: Annotated[Path, typer.Option("--in", help="Queries: .jsonl, .csv or .parquet")],
    out: Annotated[Path, typer.Option("--out", help="Predictions, as JSON lines")],
    use_cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Answer head queries from the cache")] = True,
    log: Annotated[Path, typer.Option(help="The engine's log")] = Path("limbeck-engine.log"),
) -> None:
    """Label a file of queries with a bundle."""
    from eval.prediction_files import prediction_row
    from limbeck.operations.predict import predict as predict_file
    from limbeck.progress_display import ProgressDisplay
    from serving.release.bundle import open_bundle
    from task.files import write_jsonl
    from task.readers import read_queries

    rows = read_queries(source)  # first: to open a bundle takes seconds
    opened = open_bundle(folder)
    with ProgressDisplay() as progress:
        found = predict_file(opened, rows, log, use_cache=use_cache, progress=progress)
    invalid = Counter(fault for _, fault in found if fault is not None)
    said = "".join(f", {kind.replace('_', ' ')} {n:,}" for kind, n in sorted(invalid.items()))
    print(f"{write_jsonl(out, (prediction_row(*x) for x in found)):,} rows in {out}, "
          f"{invalid.total():,} invalid answers{said}")


@app.command(rich_help_panel=PANEL)
def release(
    folder: BundleFolder,
    pointer: PointerFile,
    shadow: Annotated[
        float | None, typer.Option(help="Share of queries that the new bundle answers too, unseen by clients",
                                   min=0, max=1)
    ] = None,
    shadow_s: Annotated[float | None, typer.Option(help="Duration in seconds", min=0)] = None,
    canary: Annotated[
        float | None, typer.Option(help="Share of queries that the new bundle answers before the switch", min=0, max=1)
    ] = None,
    canary_s: Annotated[float | None, typer.Option(help="Duration in seconds", min=0)] = None,
    watch_s: Annotated[
        float | None, typer.Option(help="Seconds after the switch in which the new bundle may still be refused", min=0)
    ] = None,
    keep_s: Annotated[
        float | None, typer.Option(help="Seconds for which the old engine keeps running, for a fast rollback", min=0)
    ] = None,
    ungated: Annotated[bool, typer.Option("--ungated", help="Release a bundle that has not passed a gate")] = False,
) -> None:
    """Verify a bundle that passed its gate and point to it; services that follow the pointer switch to it.

    What is not given here is as in the section `serving.change` of the bundle's task. A new bundle that in a canary
    leaves the bounds which that section sets is refused: the one before it answers again, and the pointer names it.
    """
    from serving.release.pointer import release as point

    given = {
        "shadow": shadow, "shadow_s": shadow_s, "canary": canary, "canary_s": canary_s, "watch_s": watch_s,
        "keep_s": keep_s,
    }
    change = {name: value for name, value in given.items() if value is not None}
    found = point(pointer, bundle=folder, change=change, ungated=ungated)
    before = found.previous.id if found.previous else "nothing"
    print(f"{pointer}: {found.current.id}, kept in {found.current.bundle}; before it {before}")


@app.command(rich_help_panel=PANEL)
def rollback(pointer: PointerFile) -> None:
    """Swap the released bundle and the one before it; services switch at once. A second rollback swaps them back."""
    from serving.release.pointer import rollback as turn

    found = turn(pointer)
    left = found.previous.id if found.previous else "–"
    print(
        f"{pointer}: {found.current.id} again, in place of {left}. A second rollback would return to {left}: the "
        "pointer remembers one bundle, not a history"
    )


@app.command(rich_help_panel=PANEL)
def verify(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE|POINTER", help="A bundle folder, or the pointer to one", callback=_not_around_a_bundle
        ),
    ],
) -> None:
    """Check a bundle's hashes and everything that `limbeck serve` checks; exit code 2 if anything is wrong."""
    from serving.release.pointer import open_source

    bundle = open_source(source)
    print(f"{bundle.id}: {len(bundle.manifest['files'])} files, {bundle.model_name}, form {bundle.codec.form}, intact")


@app.command(rich_help_panel=PANEL)
def key(
    name: Annotated[str, typer.Argument(help="Name of the key: a-z, 0-9 and -")],
    file: Annotated[Path, typer.Option(help="The key file, `serving.keys`; created if missing")]
    = Path("keys.json"),
    rate: Annotated[float, typer.Option(help="Queries per second", min=0.001)] = 100.0,
    burst: Annotated[int, typer.Option(help="Burst: queries at once", min=1)] = 200,
    concurrency: Annotated[int, typer.Option(help="Concurrent requests", min=1)] = 64,
) -> None:
    """Create or replace an API key. The key is shown once: the file contains only its hash."""
    from serving.gateway.api_keys import make_key

    print(make_key(file, name, rate=rate, burst=burst, concurrency=concurrency))


@app.command(rich_help_panel=PANEL)
def purge(
    admin: AdminUrl = ADMIN,
    query: Annotated[str | None, typer.Option(help="This query")] = None,
    label: Annotated[str | None, typer.Option(metavar="ROLE=VALUE", help="All labellings with this label")] = None,
    older_than: Annotated[float | None, typer.Option(metavar="SECONDS", help="All answers made before", min=0)] = None,
    nothing: Annotated[bool, typer.Option("--nothing", help="Undo all purges")] = False,
) -> None:
    """Stop answering some queries from caches; the student answers instead, until the purge is undone."""
    from task.errors import InputError

    role, equals, value = (label or "").partition("=")
    given = [o for o, x in (("--query", query), ("--label", label), ("--older-than", older_than)) if x is not None]
    given += ["--nothing"] if nothing else []
    if len(given) != 1:
        raise InputError(
            "says not what to purge" if not given else "takes one option at a time", field="limbeck purge",
            found=", ".join(given) or None, expected="--query, --label ROLE=VALUE, --older-than SECONDS or --nothing",
        )
    if label is not None and not (role and equals and value):
        raise InputError(
            "not a label", field="--label", found=label, expected="ROLE=VALUE, such as --label brand=Acme",
        )
    wanted: dict[str, Any] = {"query": query, "older_than_s": older_than, "nothing": nothing}
    if label is not None:
        wanted |= {"role": role, "value": value if equals else None}
    found = _operator(f"{admin}/purge", {k: v for k, v in wanted.items() if v is not None and v is not False})
    if nothing:
        print(f"{found['undone']:,} purges are undone")
        return
    what = (
        f"query {query!r}" if query is not None else f"answers with {label}" if label is not None
        else f"answers from more than {older_than:g} s ago"
    )
    removed = found["removed"]
    caches = "".join(f"{n:,} of the head cache of {bundle}, " for bundle, n in removed["head_cache"].items())
    print(f"{what}: caches no longer answer ({caches}{removed['kept_answers']:,} kept answers); --nothing undoes this")


@app.command(rich_help_panel=PANEL)
def forget(
    query: Annotated[str, typer.Option(help="The query; letters, spaces and typography do not matter")],
    targets: Annotated[
        list[Path] | None, typer.Argument(metavar="[TASK|RUN]...", help="Runs: a task file, or a run folder")
    ] = None,
    state: Annotated[
        list[Path] | None, typer.Option("--state", metavar="DIR", help="State folder of a service; repeatable")
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", metavar="DIR", help="Where run folders are kept; without TASK, all of them; repeatable"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed")] = False,
) -> None:
    """Take a query out of what services and runs keep, and say what was made from it and must be made again.

    That is captures, uncertain queries, feedback and kept answers; the ledger with all replies, labels and curriculum.
    Services may run on; runs may not.
    """
    from limbeck.operations.forget import forget as forget_query
    from limbeck.operations.forget import shown
    from limbeck.operations.forget_targets import targets_of

    folders, tables = targets_of(targets or (), runs or (), states=state or (), default=RUNS)
    found = forget_query(query, states=state or (), runs=folders, tables=tables, dry_run=dry_run)
    print(shown(query, found, dry_run=dry_run))


@app.command(rich_help_panel=PANEL)
def status(admin: AdminUrl = ADMIN) -> None:
    """Show what a service serves, the state of its engine and workers, and recent events."""
    print(json.dumps(_operator(f"{admin}/status"), indent=2))


def _operator(url: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the operators' port."""
    import urllib.error
    import urllib.request

    from engine.loopback import open_url
    from task.errors import InputError

    data = None if body is None else json.dumps(body).encode()
    try:
        with open_url(urllib.request.Request(url, data), timeout_s=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        body_text = error.read().decode(errors="replace")
        try:
            message = str(json.loads(body_text)["error"]["message"])
        except (ValueError, LookupError, TypeError):
            message = f"HTTP {error.code}: {body_text[:200]}"
        else:
            if error.code != 404:  # the right port, which says what is wrong
                raise InputError(message) from error
        raise InputError(
            message, field="--admin", found=url, fix="--admin takes the operators' port, which `limbeck serve` prints"
        ) from error
    except OSError as error:
        raise InputError(f"the service does not answer: {error}", field="--admin", found=url) from error
