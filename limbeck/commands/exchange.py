"""Commands that exchange labels with annotation tools: import and export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from task.exchange.annotated import Annotated as Annotation
    from task.exchange.annotated import Loss
    from task.exchange.formats import Format
    from task.exchange.offsets import Unit
    from task.spec import Task

app = typer.Typer()
PANEL = "Exchange with annotation tools"
_SHOWN = 5  # places of a loss
_LINES = (".jsonl", ".ndjson")
_FORMATS = "label-studio, doccano or conll"

FormatName = Annotated[str, typer.Argument(metavar="FORMAT", help=_FORMATS)]
TaskOption = Annotated[Path, typer.Option("--task", metavar="TASK", help="The task file, whose roles the labels have")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a value of the task file; repeatable")
]
OffsetUnit = Annotated[
    str | None,
    typer.Option(
        "--offsets", metavar="UNIT",
        help="How start and end are counted: characters (code points; Label Studio's default), utf16 (doccano's "
        "default) or graphemes (doccano, if the project counts grapheme clusters)",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Let the files that are written replace others")]


@app.command("import", rich_help_panel=PANEL)
def import_(
    format_: FormatName,
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="What the tool has exported")],
    task: TaskOption,
    out: Annotated[Path, typer.Option("--out", help="Write the labels here, as JSON lines: gold, or data.labels")],
    person: Annotated[
        str | None, typer.Option(help="Only this person's annotations, by the name or number that the tool has")
    ] = None,
    people: Annotated[
        Path | None,
        typer.Option("--people", metavar="FOLDER", help="Also write a file for each person, for gold.annotations"),
    ] = None,
    predictions: Annotated[
        bool, typer.Option("--predictions", help="Label Studio: also take predictions that nobody has reviewed")
    ] = False,
    text: Annotated[str, typer.Option(help="Label Studio: the key of `data` that holds the query")] = "text",
    columns: Annotated[
        str | None,
        typer.Option(help="CoNLL: the columns, such as token,pos,chunk,tag; default: the first and the last"),
    ] = None,
    offsets: OffsetUnit = None,
    overwrite: Overwrite = False,
    set_: Overrides = None,
) -> None:
    """Read labels that people made in Label Studio, doccano or a CoNLL editor, checked against the task.

    A query gets one row: of several people's annotations the ground truth, or else the latest. What cannot be carried
    over is listed with its place. A label that the task does not allow is an error (exit code 2); then nothing is
    written.
    """
    from task.errors import InputError
    from task.exchange.annotated import Loss
    from task.exchange.conll import Columns
    from task.exchange.formats import Options, by_person, one_each, read_annotations, row_of
    from task.files import write_jsonl

    if out.suffix not in _LINES:
        raise InputError(
            "not a file of JSON lines", field="--out", found=out.name, expected=f"a name with {' or '.join(_LINES)}"
        )
    roles, losses = _task(task, set_), list[Loss]()
    options = Options(
        offsets=_unit(offsets), text=text, predictions=predictions, columns=Columns.of(columns) if columns else None
    )
    _free([("--out", out)], overwrite)
    found = list(read_annotations(_format(format_), files, roles, losses, options))
    names = sorted({x.person for x in found if x.person is not None})
    if person is not None:
        found = [x for x in found if x.person == person]
        if not found:
            raise InputError(
                "nobody of this name", field="--person", found=person, expected=f"one of: {', '.join(names) or 'none'}"
            )
    apart = {} if people is None else {people / f"{name}.jsonl": mine for name, mine in by_person(found).items()}
    _free([("--people", path) for path in apart], overwrite)
    rows = one_each(found, losses)
    if not rows:
        _refuse_nothing(files, losses)
    write_jsonl(out, map(row_of, rows))
    for path, mine in apart.items():
        write_jsonl(path, map(row_of, mine))
    _print_rows(rows, len(found), out)
    for path, mine in apart.items():
        print(f"{len(mine):,} rows in {path}")
    _print_losses(losses)


@app.command("export-labels", rich_help_panel=PANEL)
def export_labels(
    format_: FormatName,
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="Gold, labels or predictions: .jsonl, .csv or .parquet")
    ],
    task: TaskOption,
    out: Annotated[Path, typer.Option("--out", help="The file to import into the tool")],
    config: Annotated[
        Path | None,
        typer.Option("--config-out", metavar="XML", help="Label Studio: write the labelling configuration here too"),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option("--predictions", help="Label Studio: as a model's predictions, to be reviewed, with their scores"),
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(help="doccano: the project's type, sequence, intent or classes; default: as the roles need it"),
    ] = None,
    offsets: OffsetUnit = None,
    overwrite: Overwrite = False,
    set_: Overrides = None,
) -> None:
    """Write labels for Label Studio, doccano or as CoNLL, for people to review; `limbeck import` reads them back.

    What the format cannot hold is listed with the row's number.
    """
    from task.errors import InputError
    from task.exchange.doccano import LAYOUTS
    from task.exchange.formats import Options, write_labels
    from task.exchange.label_studio_write import labelling_config
    from task.files import write_text
    from task.readers import read_labels

    roles, name = _task(task, set_), _format(format_)
    if layout is not None and layout not in LAYOUTS:
        raise InputError("no such layout", field="--layout", found=layout, expected="one of: " + ", ".join(LAYOUTS))
    if config is not None and name != "label-studio":
        raise InputError("only Label Studio has one", field="--config-out", found=format_, expected="label-studio")
    _free([("--out", out), *([("--config-out", config)] if config else [])], overwrite)
    xml = labelling_config(roles) if config is not None else ""
    examples = read_labels(labels, roles, confidence=True)
    chosen = next((x for x in LAYOUTS if x == layout), None)
    losses = write_labels(
        name, out, examples, roles, Options(offsets=_unit(offsets), predictions=predictions, layout=chosen)
    )
    if config is not None:
        write_text(config, xml)
        print(f"Labelling configuration: {config}")
    print(f"{len(examples):,} queries in {out}")
    _print_losses(losses)


def _task(path: Path, overrides: list[str] | None) -> Task:
    from task.load import load_task

    return load_task(path, overrides or ()).task


def _format(text: str) -> Format:
    from task.errors import InputError
    from task.exchange.formats import FORMATS

    found = next((x for x in FORMATS if x == text), None)
    if found is None:
        raise InputError("no such format", field="FORMAT", found=text, expected="one of: " + ", ".join(FORMATS))
    return found


def _unit(text: str | None) -> Unit | None:
    from task.errors import InputError
    from task.exchange.offsets import UNITS

    found = next((x for x in UNITS if x == text), None)
    if text is not None and found is None:
        raise InputError("no such unit", field="--offsets", found=text, expected="one of: " + ", ".join(UNITS))
    return found


def _free(files: Iterable[tuple[str, Path]], overwrite: bool) -> None:
    """Refuse to replace a file without being told to."""
    from task.errors import InputError

    for field, path in files:
        if path.exists() and not overwrite:
            raise InputError(
                "the file is there already", file=path, field=field, fix="Give another name, or add --overwrite"
            )


def _refuse_nothing(files: Sequence[Path], losses: Sequence[Loss]) -> None:
    """The error for files without an annotation: it says what they have instead."""
    from task.errors import InputError
    from task.exchange.annotated import REASONS, by_reason

    groups = by_reason(losses)
    raise InputError(
        "no annotations", file=", ".join(map(str, files)), expected="labels by people",
        found="; ".join(f"{len(group):,} × {REASONS[reason]}" for reason, group in groups.items()) or None,
        fix="Add --predictions to take those of a model" if "only predicted" in groups else None,
    )


def _print_rows(rows: Sequence[Annotation], read: int, out: Path) -> None:
    states = Counter(x.state for x in rows)
    said = [f"{states[x]:,} {x}" for x in ("labelled", "skipped", "machine") if states[x]]
    people = len({x.person for x in rows if x.person is not None and x.state != "machine"})
    whose = f" by {people} {'person' if people == 1 else 'people'}" if people else ""
    labels = sum(len(x.example.labels) for x in rows)
    print(f"{len(rows):,} queries in {out} ({', '.join(said) or 'none'}), with {labels:,} labels{whose}; "
          f"{read:,} annotations read")


def _print_losses(losses: Sequence[Loss]) -> None:
    from task.exchange.annotated import REASONS, by_reason
    from task.text import printable

    if not losses:
        print("Everything was carried over")
        return
    print(f"Not carried over: {len(losses):,}")
    for reason, group in by_reason(losses).items():
        print(f"  {len(group):,} × {REASONS[reason]}")
        for loss in group[:_SHOWN]:
            print(f"      {loss.place}: {printable(loss.what)}")
        if len(group) > _SHOWN:
            print(f"      and {len(group) - _SHOWN:,} more")
