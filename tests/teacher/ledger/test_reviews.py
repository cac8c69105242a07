"""Decisions of people: what follows from them, and that none is lost or counted twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task.errors import InputError
from task.labels import Label, Labelling
from teacher.ledger.ledger import Ledger
from teacher.ledger.reviews import Review, Reviews, Verdict, changes, digest, read_verdicts

MILK, OAT = (Label("product", "milk", 4, 8),), (Label("product", "oat milk", 0, 8),)


def review(token: str, person: str = "ada", decision: Any = "correct", labels: Labelling = OAT, **more: Any) -> Review:
    given: dict[str, Any] = {"query": "oat milk", "count": 3, "queue": "uncertain", "before": MILK, "created": 1.0}
    return Review(token=token, person=person, decision=decision, labels=labels, **(given | more))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def verdict(path: Path, *reviews: Review) -> Verdict:
    with Reviews(path) as opened:
        for one in reviews:
            assert opened.add(one)
        (found,) = opened.verdicts().values()
        assert read_verdicts(path) == opened.verdicts()
    return found


def test_a_decision_sent_twice_counts_once_and_is_there_after_reopening(path: Path) -> None:
    with Reviews(path) as reviews:
        assert [reviews.add(review("t")), reviews.add(review("t", labels=()))] == [True, False]
    with Reviews(path) as reviews:
        (kept,) = reviews.of("oat milk")
        assert (kept.labels, kept.before, kept.person, kept.count, kept.created) == (OAT, MILK, "ada", 3, 1.0)


def test_decisions_that_agree_become_labels_and_others_are_disputed_until_settled(path: Path) -> None:
    found = verdict(path, review("1"), review("2", "ben"))
    assert (found.outcome, found.labels, found.people, found.changed) == ("labels", OAT, ("ada", "ben"), True)
    with Reviews(path) as reviews:
        reviews.add(review("3", "cyd", "accept", MILK))
        assert reviews.verdicts()["oat milk"].outcome == "disputed"
        reviews.add(review("4", "dan", "settle", MILK))
        settled = reviews.verdicts()["oat milk"]
        assert (settled.outcome, settled.labels, settled.changed) == ("labels", MILK, False)
        reviews.add(review("5", "ben"))
        assert reviews.verdicts()["oat milk"].outcome == "disputed"  # somebody has looked again, and differs
        assert reviews.take_back("5", "ben") is not None
        assert reviews.verdicts()["oat milk"] == settled


def test_the_latest_decision_of_a_person_counts_and_a_skip_says_nothing(path: Path) -> None:
    found = verdict(path, review("1", labels=MILK), review("2", labels=OAT), review("3", "ben", "skip", MILK))
    assert (found.outcome, found.labels, found.people) == ("labels", OAT, ("ada",))


def test_rejected_by_all_is_rejected_and_by_some_disputed(path: Path) -> None:
    assert verdict(path, review("1", decision="reject"), review("2", "ben", "reject", MILK)).outcome == "rejected"
    with Reviews(path) as reviews:
        reviews.add(review("3", "cyd"))
        assert reviews.verdicts()["oat milk"].outcome == "disputed"


def test_an_audit_makes_gold_whatever_else_was_decided(path: Path) -> None:
    assert verdict(path, review("1"), review("2", "ben", queue="audit")).gold


def test_only_ones_own_decision_can_be_taken_back_and_once(path: Path) -> None:
    with Reviews(path) as reviews:
        reviews.add(review("1"))
        assert reviews.take_back("1", "ben") is None
        taken = reviews.take_back("1", "ada")
        assert taken is not None
        assert taken.undone is not None
        assert reviews.take_back("1", "ada") is None
        assert reviews.verdicts() == {}
        assert len(reviews.of("oat milk")) == 1  # its row stays


def test_a_ledger_of_before_and_none_at_all_have_no_decisions(path: Path) -> None:
    assert read_verdicts(path) == {}
    assert not path.exists()
    with Ledger(path):
        pass
    assert read_verdicts(path) == {}
    path.write_text("no database, but long enough for a header of one" * 20)
    with pytest.raises(InputError):
        read_verdicts(path)
    with pytest.raises(InputError):
        Reviews(path)


def test_a_disk_that_takes_no_more_loses_no_earlier_decision_and_says_so(path: Path) -> None:
    with Reviews(path) as reviews:
        reviews.add(review("1"))
        reviews._db.execute("PRAGMA query_only = ON")  # what a read-only disk is to SQLite
        with pytest.raises(InputError, match="cannot write a decision"):
            reviews.add(review("2", "ben"))
        with pytest.raises(InputError, match="cannot write a decision"):
            reviews.take_back("1", "ada")
        assert reviews.verdicts()["oat milk"].people == ("ada",)


def test_decisions_are_written_while_a_labelling_job_writes(path: Path) -> None:
    with Reviews(path) as reviews, Ledger(path) as ledger, ledger.writing():
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = threading.Thread(target=lambda: reviews.add(review("1")))
        waiting.start()
        other.execute("ROLLBACK")
        waiting.join()
        other.close()
        assert reviews.verdicts()


_WRITER = """
import sys
from pathlib import Path
from tests.teacher.ledger.test_reviews import review
from teacher.ledger.reviews import Reviews
with Reviews(Path(sys.argv[1])) as reviews:
    for n in range(1_000_000):
        reviews.add(review(str(n), query=f"oat milk {n}"))
        print(n, flush=True)
"""


def test_a_kill_loses_no_decision_that_was_acknowledged(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 50:
            os.kill(process.pid, signal.SIGKILL)
            break
    said = [50, *(int(x) for x in process.stdout.read().split("\n")[:-1])]
    process.wait()
    kept = read_verdicts(path)
    assert {f"oat milk {n}" for n in range(max(said) + 1)} <= kept.keys()


PEOPLE = st.sampled_from(["ada", "ben", "cyd"])
CHOICES = st.lists(st.tuples(
    PEOPLE, st.sampled_from(["accept", "correct", "reject", "skip", "settle"]), st.sampled_from([OAT, MILK, ()])
), max_size=8)


@given(CHOICES)
def test_a_verdict_is_what_its_definition_says(
    tmp_path_factory: pytest.TempPathFactory, choices: Sequence[tuple[str, str, Labelling]]
) -> None:
    path = tmp_path_factory.mktemp("reviews") / "ledger.sqlite"
    with Reviews(path) as reviews:
        for n, (person, decision, labels) in enumerate(choices):
            reviews.add(review(str(n), person, decision, labels))
        found = reviews.verdicts().get("oat milk")
    said = [c for c in choices if c[1] != "skip"]
    if not said:
        assert found is None
        return
    while any(d == "settle" for _, d, _ in said[1:]):
        said = said[1:]
    last = {person: (None if decision == "reject" else labels) for person, decision, labels in said}
    assert found is not None
    if len(set(last.values())) > 1:
        assert found.outcome == "disputed"
    else:
        (agreed,) = set(last.values())
        assert (found.outcome, found.labels) == (("rejected", found.labels) if agreed is None else ("labels", agreed))


def test_changes_are_counted_by_role_and_the_digest_follows_the_labels(path: Path) -> None:
    found = verdict(path, review("1", labels=(*OAT, Label("brand", "oat", 0, 3))))
    assert changes([found]) == {"brand": {"added": 1, "removed": 0}, "product": {"added": 1, "removed": 1}}
    before = digest([found])
    assert before == digest(read_verdicts(path).values())
    with Reviews(path) as reviews:
        reviews.add(review("2"))
        assert digest(reviews.verdicts().values()) != before
