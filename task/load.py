"""Loads a YAML file and overrides into a validated `Task`; errors name file, line, key, found and expected value.

`extends` and `--set` are implemented here rather than with OmegaConf or pydantic-settings. Neither keeps the line of a
key, which the errors name, so this module would have to compose the YAML anyway; neither has `extends` (Hydra does);
and OmegaConf interpolates `${...}`, which instructions and patterns may contain. They would replace `_merge`,
`_parse_override` and `_set`, some 45 lines, and every `limbeck` command would import them: omegaconf 2.4 takes 0.06 s,
pydantic-settings 2.16 takes 0.24 s, on top of 0.10 s for PyYAML and pydantic.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from task.errors import InputError
from task.serving_settings import Serving
from task.spec import Task
from task.value_sources import anchor_files, resolve_values

_MISSING = object()


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task and its file; paths of prompts and data are relative to that file."""

    task: Task
    path: Path

    @property
    def folder(self) -> Path:
        """The folder of the task file."""
        return self.path.parent


def load_task(path: str | Path, overrides: Sequence[str] = ()) -> LoadedTask:
    """Read a task file.

    `extends: other.yaml` takes the values of another file: mappings are merged, everything else is replaced.

    Args:
        path: The YAML file.
        overrides: `a.b=value` strings, value in YAML; paths in them are relative to the working directory.

    Raises:
        InputError: The file is missing, not YAML, or not a valid task; or an override is not valid.
    """
    path = Path(path)
    config, lines = _read(path, seen=())
    changed: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override)
        _set(config, keys, value, override)
        changed[keys] = f"--set {override}"
    _anchor_student(config, Path())
    resolve_values(config, lines, path, lambda e, keys: _explain(e, config, lines, path, changed, keys))
    try:
        return LoadedTask(Task.model_validate(config), path)
    except ValidationError as error:
        raise _explain(error, config, lines, path, changed) from error


def override_serving(settings: Serving, overrides: Sequence[str]) -> Serving:
    """The section `serving` of a bundle with an operator's overrides.

    Args:
        overrides: `a.b=value` strings, with or without the prefix `serving.`.

    Raises:
        InputError: There is no such setting, or the value is not valid.
    """
    config = {"serving": settings.model_dump(mode="json")}
    changed: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override if override.startswith("serving.") else f"serving.{override}")
        _set(config, keys, value, override)
        changed[keys] = f"--set {override}"
    try:
        return Serving.model_validate(config["serving"])
    except ValidationError as error:
        raise _explain(error, config, {}, Path("--set"), changed, ("serving",)) from error


def override_judging(task: Task, overrides: Sequence[str]) -> Task:
    """A bundle's task with overrides in `gates` and `eval`; the other sections belong to the trained student.

    Raises:
        InputError: It is another section, there is no such setting, or the value is not valid.
    """
    config = task.model_dump(mode="json")
    changed: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override)
        if keys[0] not in ("gates", "eval"):
            raise InputError(
                "this section of a bundle's task cannot be changed", field="--set", found=override,
                expected="gates.NAME or eval.NAME",
                fix="Change the task file and run `limbeck bundle` again",
            )
        _set(config, keys, value, override)
        changed[keys] = f"--set {override}"
    try:
        return Task.model_validate(config)
    except ValidationError as error:
        raise _explain(error, config, {}, Path("--set"), changed) from error


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], dict[tuple[str, ...], tuple[Path, int]]]:
    """The merged mapping and, per key path, the file and line that set it."""
    if path.resolve() in seen:
        raise InputError("`extends` is circular", file=path, field="extends")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        fix = f"Task files there: {', '.join(near)}" if near else "Check the path; shipped ones are in configs/"
        raise InputError("no such task file", file=path, fix=fix) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the task file: {error}", file=path) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"not YAML: {problem}", file=path, line=mark.line + 1 if mark else None) from error
    if not isinstance(config, dict):
        raise InputError(
            "a task file is a mapping", file=path, found=config, expected="keys such as name, roles, data",
            fix="configs/market.yaml is an example",
        )
    _anchor_paths(config, path.parent)
    lines = {keys: (path, line) for keys, line in _lines(node, ())}
    parent = config.pop("extends", None)
    if parent is not None:
        base, base_lines = _read(path.parent / str(parent), (*seen, path.resolve()))
        config, lines = _merge(base, config), {**base_lines, **lines}
    return config, lines


def _lines(node: yaml.Node | None, at: tuple[str, ...]) -> Iterable[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            here = (*at, str(number))
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out


def _anchor_paths(config: dict[str, Any], folder: Path) -> None:
    """Make paths in a file, which are relative to that file, relative to the working directory."""
    data = config.get("data")
    if isinstance(data, dict) and isinstance(data.get("dir"), str):
        data["dir"] = _plain(folder / data["dir"])
    _anchor_student(config, folder)
    anchor_files(config, folder)
    teacher = config.get("teacher")
    openai = teacher.get("openai") if isinstance(teacher, dict) else None
    if isinstance(openai, dict) and isinstance(openai.get("prompt"), str):
        openai["prompt"] = str(folder / openai["prompt"])


def _anchor_student(config: dict[str, Any], folder: Path) -> None:
    """Make the paths of the student absolute: they are read in workers too, which run in another directory.

    An adapter is looked for beside the file and, where it is not there, in the working directory, where run folders
    are: `runs/NAME/train/adapter`. A base is a folder if it begins with a dot or is one in the working directory, and
    otherwise the name of a model.
    """
    student = config.get("student")
    if not isinstance(student, dict):
        return
    adapter, base = student.get("init_adapter"), student.get("base")
    if isinstance(adapter, str) and not Path(adapter).is_absolute() and "://" not in adapter:
        beside = folder / adapter
        here = beside.exists() or adapter.startswith(".")
        student["init_adapter"] = _absolute(beside if here else Path(adapter))
    if isinstance(base, str) and not Path(base).is_absolute() and (base.startswith(".") or Path(base).is_dir()):
        student["base"] = _absolute(folder / base if base.startswith(".") else Path(base))


def _plain(path: Path) -> str:
    """The path without `x/..`, for people; as it is where a link makes that another folder."""
    plain = os.path.normpath(path)
    return plain if os.path.realpath(plain) == os.path.realpath(path) else str(path)


def _absolute(path: Path) -> str:
    """The path from the root, without `..`; links are kept, as the folder's name is what the user knows."""
    return os.path.normpath(Path.cwd() / path)


def _parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError("not an override", file="--set", found=override, expected="a.b=value")
    try:
        return tuple(key.strip().split(".")), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError("the value is not YAML", file="--set", field=key, found=value) from error


def _set(config: dict[str, Any], keys: tuple[str, ...], value: Any, override: str) -> None:
    node: Any = config
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(node):
                raise InputError(
                    "no such list entry", file="--set", field=".".join(keys[: depth + 1]), found=key,
                    expected=f"a number below {len(node)}",
                )
            if last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            else:
                if node.get(key) is None:
                    node[key] = {}
                node = node[key]
        else:
            raise InputError(
                "the value has no keys", file="--set", field=".".join(keys[:depth]), found=override,
                expected="a shorter key",
            )


def _explain(
    error: ValidationError,
    config: Mapping[str, Any],
    lines: Mapping[tuple[str, ...], tuple[Path, int]],
    path: Path,
    changed: Mapping[tuple[str, ...], str],
    section: tuple[str, ...] = (),
) -> InputError:
    """The first violation with its place, and the number of further ones."""
    details = error.errors(include_url=False)
    first = details[0]
    keys = (*section, *(str(k) for k in first["loc"]))
    file, line = next(
        (lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), (path, None)
    )
    source: str | Path = next((changed[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in changed), "") or file
    expected = None
    found: object = _lookup(config, keys)
    fix = None
    problem = first["msg"].removeprefix("Value error, ")
    match first["type"]:
        case "extra_forbidden":
            valid = _valid_keys(keys[:-1])
            near = difflib.get_close_matches(keys[-1], valid, n=1)
            problem, expected = "unknown key", f"one of: {', '.join(valid)}"
            found, fix = keys[-1], f"Did you mean `{near[0]}`?" if near else None
        case "missing":
            problem, found = "required key is missing", None
        case "literal_error":
            problem, expected = "not a valid value", f"one of: {first['ctx']['expected']}"
        case "model_type":
            problem, expected = "not a mapping", f"keys, some of: {', '.join(_valid_keys(keys))}"
        case "value_error":
            found = None if isinstance(found, (dict, list)) or found is _MISSING else found
        case _:
            pass
    if len(details) > 1:
        fix = f"{fix + ' ' if fix else ''}({len(details) - 1} more after this one)"
    return InputError(
        problem, file=source, line=line if source == file else None, field=".".join(keys) or None,
        found=None if found is _MISSING else found, expected=expected, fix=fix,
    )


def _lookup(config: Any, keys: Sequence[str]) -> object:
    for key in keys:
        if isinstance(config, dict) and key in config:
            config = config[key]
        elif isinstance(config, list) and key.isdecimal() and int(key) < len(config):
            config = config[int(key)]
        else:
            return _MISSING
    return config


def _valid_keys(keys: Sequence[str]) -> list[str]:
    """Field names of the model that a key path leads to."""
    schema = Task.model_json_schema()
    node: dict[str, Any] = schema
    for key in keys:
        node = _deref(schema, node)
        node = node["items"] if key.isdecimal() and "items" in node else node.get("properties", {}).get(key, {})
    return list(_deref(schema, node).get("properties", {}))


def _deref(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", ()):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        target: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        return target
    return node
