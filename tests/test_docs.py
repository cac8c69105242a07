"""Measured numbers in the docs are those of the committed results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from task.settings import Cost, OpenAI
from tools import house

ROOT = Path(__file__).parent.parent


def test_measured_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/update_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} → {target}"


def test_files_that_texts_name_are_there() -> None:
    """In docs, docstrings and comments; names in capitals stand for any."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    floors = "|".join((*house.FLOORS, "benchmarks", "tools", "tests", "configs", "docs", "deploy"))
    named = re.compile(rf"(?<![\w/.-])(?:{floors})/[\w/.-]*\w\.(?:py|md|yaml|j2|c|h)\b")
    texts = [x for x in listed if x.endswith((".py", ".md", ".yaml", ".toml", ".j2", ".c", ".h"))]
    for text in texts:
        for found in named.findall((ROOT / text).read_text(encoding="utf-8")):
            if not any(part.isupper() for part in re.split(r"[/.]", found)):
                assert (ROOT / found).exists(), f"{text} names {found}"


def test_every_setting_that_is_a_price_or_makes_one_is_in_the_docs() -> None:
    docs = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md"))
    prices = [f"teacher.openai.{n}" for n in OpenAI.model_fields if "price" in n or n == "budget"]
    assert len(prices) == 3
    assert [n for n in [*prices, *Cost.model_fields] if not re.search(rf"\b{n.rpartition('.')[2]}\b", docs)] == []
