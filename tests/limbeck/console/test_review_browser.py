"""Review in a real browser, by keyboard and by mouse."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from task.labels import Label
from teacher.ledger.records import LedgerRow
from teacher.ledger.reviews import Reviews, read_verdicts
from tests.limbeck.console.browsers import browser, check_page, current, open_queue, opened, started
from tests.limbeck.console.consoles import PASSWORD, add_user
from tests.limbeck.console.small_run import make_run, rows, spans

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HOSTILE = '<img src=x onerror=alert(1)> "quoted" </form><script>alert(2)</script> & ' + "x" * 300


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    make_run(tmp_path)
    with started(tmp_path) as (url, _):
        yield url


def verdicts(runs: Path) -> dict[str, tuple[str, tuple[Label, ...]]]:
    return {q: (v.outcome, v.labels) for q, v in read_verdicts(runs / "shop" / "ledger.sqlite").items()}


def test_everything_that_a_reviewer_does_takes_few_keys(tmp_path: Path, browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        keys = open_queue(page)
        known = {r.query: r for r in rows()}
        took = {}
        query = current(page)  # right as it is
        keys.decide("Enter")
        took["accept"] = keys.pressed
        assert verdicts(tmp_path)[query] == ("labels", tuple(
            Label(x.role, x.text, x.start, x.end) for x in known[query].labels
        ))
        query, before = current(page), keys.pressed  # the last word belongs to the product
        keys.decide("End", "Shift+ArrowLeft", "Shift+ArrowLeft", "2", "Enter")
        took["another span"] = keys.pressed - before
        words = query.split(" ")
        brand = spans(query, brand=" ".join(words[:-3]))[0]
        product = " ".join(words[-3:])
        assert verdicts(tmp_path)[query] == ("labels", (
            Label("brand", brand.text, brand.start, brand.end),
            Label("product", product, query.index(product), len(query)),
        ))
        query, before = current(page), keys.pressed  # no brand, and a shelf
        keys.decide("x", "3", "d", "r", "i", "Enter", "Enter")
        took["a label removed and a value typed"] = keys.pressed - before
        outcome, labels = verdicts(tmp_path)[query]
        assert (outcome, [(x.role, x.text) for x in labels]) == (
            "labels", [("product", known[query].labels[1].text), ("aisle", "drinks")],
        )
        query = current(page)
        keys.decide("r")
        assert verdicts(tmp_path)[query][0] == "rejected"
        query = current(page)
        keys.decide("s")
        assert query not in verdicts(tmp_path)
        query = current(page)
        keys.decide("a")
        assert query in verdicts(tmp_path)
        keys.decide("u")
        assert (current(page), query in verdicts(tmp_path)) == (query, False)
        assert took == {"accept": 1, "another span": 5, "a label removed and a value typed": 7}


def test_characters_instead_of_words_and_letters_beyond_the_basic_plane(tmp_path: Path, browser: Browser) -> None:
    query = "🧀🧀brie ชา नमक"
    make_run(tmp_path, [LedgerRow(query, 5, "r", "uncertain", spans(query, product="brie"), 0.5)])
    with started(tmp_path) as (url, _), opened(browser, url) as page:
        keys = open_queue(page)
        keys.press("m", "Home", "Shift+ArrowRight", "1")  # two cheeses, a code point each
        keys.press("End", "Shift+ArrowLeft", "Shift+ArrowLeft", "2")
        keys.decide("Enter")
        (found,) = verdicts(tmp_path).values()
        assert {(x.role, x.text, x.start, x.end) for x in found[1]} == {
            ("brand", "🧀🧀", 0, 2), ("product", "brie", 2, 6), ("product", query[-3:], len(query) - 3, len(query)),
        }


def test_a_span_is_dragged_with_the_mouse_and_labelled_by_a_button(
    tmp_path: Path, browser: Browser, address: str
) -> None:
    with opened(browser, address) as page:
        open_queue(page)
        query = current(page)
        units = page.locator("#drawn [data-unit]")
        first, last = units.first.bounding_box(), units.last.bounding_box()
        assert first is not None
        assert last is not None
        page.mouse.move(first["x"] + 3, first["y"] + first["height"] / 2)
        page.mouse.down()
        page.mouse.move(last["x"] + 3, last["y"] + last["height"] / 2, steps=8)
        page.mouse.up()
        page.locator("button.role", has_text="product").click()
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#undo")).to_contain_text(query)
        assert verdicts(tmp_path)[query] == ("labels", (Label("product", query, 0, len(query)),))


def test_what_cannot_be_saved_is_said_and_nothing_typed_is_lost(browser: Browser, address: str) -> None:
    with opened(browser, address, allow=[422]) as page:
        keys = open_queue(page)
        query = current(page)
        page.evaluate("""() => { const f = document.forms.decision.elements;
            f.labels.value = JSON.stringify([{role: 'aisle', text: 'garage', start: null, end: null}]); }""")
        page.locator("#decision").evaluate("f => f.requestSubmit(f.querySelector('button[value=keep]'))")
        expect(page.locator("#problem")).to_contain_text("is not a value of 'aisle'")
        assert current(page) == query
        expect(page.locator("#others")).to_contain_text("garage")
        page.get_by_role("button", name="Remove aisle: garage").click()
        keys.decide("Enter")
        expect(page.locator("#undo")).to_contain_text(query)


def test_two_browsers_at_one_queue_get_different_queries(tmp_path: Path, browser: Browser) -> None:
    make_run(tmp_path)
    for name in ("ada", "ben"):
        add_user(tmp_path, name, "look", "label")
    with started(tmp_path) as (url, _), opened(browser, url) as ada, opened(browser, url) as ben:
        for page, name in ((ada, "ada"), (ben, "ben")):
            page.goto("/runs/shop/review/uncertain")
            page.get_by_label("User").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in").click()
            expect(page.locator(".who")).to_have_text(name)
        keys = [open_queue(ada), open_queue(ben)]
        seen: list[str] = []
        for _ in range(5):
            seen += [current(ada), current(ben)]
            for one in keys:
                one.decide("Enter")
        assert len(set(seen)) == 10
        with Reviews(tmp_path / "shop" / "ledger.sqlite") as reviews:
            assert len(reviews.latest(100)) == 10


def test_a_console_that_is_killed_loses_no_decision_that_the_browser_saw(tmp_path: Path, browser: Browser) -> None:
    make_run(tmp_path)
    with started(tmp_path) as (url, process), opened(browser, url) as page:
        keys = open_queue(page)
        seen = []
        for _ in range(4):
            seen.append(current(page))
            keys.decide("Enter")
        os.kill(process.pid, signal.SIGKILL)
    with started(tmp_path) as (url, _), opened(browser, url) as page:
        assert verdicts(tmp_path).keys() == set(seen)
        open_queue(page)
        assert current(page) not in seen


def test_markup_scripts_and_long_words_are_text(tmp_path: Path, browser: Browser) -> None:
    row = LedgerRow(HOSTILE, 9, "r", "uncertain", (Label("product", HOSTILE[:20], 0, 20),), 0.5, reason=HOSTILE)
    make_run(tmp_path, [row])
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with started(tmp_path) as (url, _), opened(browser, url) as page:
        keys = open_queue(page)
        assert current(page) == HOSTILE
        check_page(page, pictures, "hostile-review")
        keys.decide("Enter")
        for name, path in (("labels", "/runs/shop/labels"), ("decisions", "/runs/shop/decisions")):
            page.goto(path)
            expect(page.locator("main")).to_contain_text(HOSTILE[:60])
            check_page(page, pictures, f"hostile-{name}")
        page.get_by_role("link", name=re.compile("^<img")).first.click()
        expect(page.locator("h1")).to_have_text(HOSTILE)
        check_page(page, pictures, "hostile-label")
        assert page.locator("main img").count() == 0
    assert verdicts(tmp_path)[HOSTILE][1] == (Label("product", HOSTILE[:20], 0, 20),)


def test_every_page_of_labels_and_review_is_fit_to_look_at(tmp_path: Path, browser: Browser, address: str) -> None:
    pictures = Path(os.environ.get("LIMBECK_PICTURES", tmp_path / "pictures"))
    pictures.mkdir(exist_ok=True)
    with Reviews(tmp_path / "shop" / "ledger.sqlite") as reviews:
        row = rows()[1]
        for n, (who, labels) in enumerate((("ada", row.labels), ("ben", ()))):
            from teacher.ledger.reviews import Review

            reviews.add(Review(
                token=f"{n}" * 20, query=row.query, count=row.count, queue="uncertain", person=who,
                decision="accept" if labels else "correct", labels=labels, before=row.labels, created=1e9,
            ))
    with opened(browser, address) as page:
        open_queue(page)
        check_page(page, pictures, "review")
        for name, path in (
            ("labels", "/runs/shop/labels"), ("label", f"/runs/shop/label?query={row.query}"),
            ("decisions", "/runs/shop/decisions"), ("disputed", "/runs/shop/settle"),
            ("settle", f"/runs/shop/settle?query={row.query}"), ("mistakes", "/runs/shop/review/mistakes"),
            ("audit-log", "/audit"), ("nothing-left", "/runs/shop/review/picked"),
        ):
            page.goto(path)
            check_page(page, pictures, name)


def test_the_list_filters_without_loading_the_page_and_the_back_button_works(browser: Browser, address: str) -> None:
    with opened(browser, address) as page:
        open_queue(page)
        page.goto("/runs/shop/labels")
        expect(page.locator("tbody tr")).to_have_count(30)
        page.get_by_label("Status").select_option("partial")
        expect(page.locator("tbody tr")).to_have_count(3)
        assert "status=partial" in page.url
        page.get_by_label("Text", exact=True).fill("HOLLOW")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.go_back()
        expect(page.locator("tbody tr")).to_have_count(3)
        page.reload()
        expect(page.get_by_label("Status")).to_have_value("partial")
        page.get_by_text("More filters").click()
        page.get_by_label("Confidence from").fill("2")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("alert")).to_contain_text("must be a number from 0 to 1")
        assert json.loads(page.evaluate("JSON.stringify(document.querySelectorAll('tbody tr').length > 0)"))
