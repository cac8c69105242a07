from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from samples.market.generate import FILES, Ask
from samples.market.months import Month, following, month_of, write_month
from samples.market.plan import PLAN
from task.errors import InputError
from task.load import load_task
from task.readers import read_catalogue, read_labels
from task.spec import Task

SEED, QUERIES, ITEMS = 5, 6_000, 2_000
LAST = 6
# Of the files of `generate(seed=3, queries=1500, items=800)` before there were months.
MONTH_0 = {
    "catalogue": "d7730ae8066884ce2f05f2a16e65e8e032c05f76d7c033532aefe1d2c3d1ada8",
    "conversions": "b245c8671ff7faa87bc64b723ac6dd756b48d7ad92b643368a444364835486e8",
    "calibration": "a372cbe3e4a00ca00bc453ab2291bec333339b16485cc7cfd203aa2aad066eaa",
    "test": "3fecc2927c801dfea3244d1e338912945bfe18715039010568d56270496502e5",
    "queries": "e9acf61c5d55e91a571378aa7855078577f4eb508a78019be00a0392728226c8",
}
NEW_TYPES = [name for pair in PLAN[1].types.values() for name in pair]
INVENTED = PLAN[1].brands[12:]


@cache
def months() -> tuple[Month, ...]:
    found = [month_of(SEED, queries=QUERIES, items=ITEMS, number=0)]
    while len(found) <= LAST:
        found.append(following(found[-1], SEED))
    return tuple(found)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp(f"month-{n}") for n in range(LAST + 1)]
    for number, folder in enumerate(folders):
        write_month(folder, seed=SEED, queries=QUERIES, items=ITEMS, month=number)
    return folders


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def share(month: Month, wanted: Callable[[Ask], bool]) -> float:
    """Of the traffic, the share of the asks that a function holds for."""
    pairs = list(zip(month.log, month.counts, strict=True))
    return sum(c for ask, c in pairs if wanted(ask)) / sum(month.counts)


def says(*texts: str) -> Callable[[Ask], bool]:
    return lambda ask: any(f" {t} " in f" {ask.query} " for t in texts)


def task_of_month(number: int) -> Task:
    """The market's task as its user edits it when the department has its new name."""
    loaded = load_task("configs/market.yaml").task
    if number < 4:
        return loaded
    roles = [
        r.model_copy(update={"values": tuple(PLAN[4].renamed.get(v, v) for v in r.values)}) for r in loaded.roles
    ]
    return loaded.model_copy(update={"roles": tuple(roles)})


def test_month_0_is_the_plain_market_byte_for_byte(tmp_path: Path) -> None:
    write_month(tmp_path, seed=3, queries=1_500, items=800, month=0)
    found = {name: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for name, file in FILES.items()}
    assert found == MONTH_0


def test_a_month_depends_on_seed_and_number_alone(tmp_path: Path, written: list[Path]) -> None:
    for name, seed in (("same", SEED), ("other", SEED + 1)):
        write_month(tmp_path / name, seed=seed, queries=QUERIES, items=ITEMS, month=5)
    for file in FILES.values():
        assert (tmp_path / "same" / file).read_bytes() == (written[5] / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (written[5] / file).read_bytes()


def test_the_month_before_stays_as_it_is() -> None:
    before = month_of(SEED, queries=500, items=800, number=3)
    told = (before.log, before.market.items, before.market.brands, before.market.shelves)
    following(before, SEED)
    assert told == (before.log, before.market.items, before.market.brands, before.market.shelves)
    assert "Hot Drinks" in before.market.shelves


def test_gold_holds_valid_labels_of_as_many_queries_every_month(written: list[Path]) -> None:
    sizes = set()
    for number, folder in enumerate(written):
        gold = [read_labels(folder / FILES[n], task_of_month(number)) for n in ("calibration", "test")]
        sizes.add(tuple(map(len, gold)))
        log = {r["query"]: r["count"] for r in rows(folder / "queries.jsonl")}
        assert all(e.query[x.start:x.end] == x.text for part in gold for e in part for x in e.labels if x.end)
        assert all(log[e.query] == e.count for part in gold for e in part)
        assert len(log) == QUERIES
    assert sizes == {(519, 1_731)}  # so small a log has too short a head for 600 and 2,000


def test_neighbouring_months_share_most_of_their_head_and_little_of_their_tail() -> None:
    for a, b in zip(months(), months()[1:], strict=False):
        log = {ask.query for ask in b.log}
        head, tail = (sum(x.query in log for x in a.log[part]) for part in (slice(0, 300), slice(1_800, None)))
        assert 0.80 < head / 300 < 0.99
        assert 0.20 < tail / (QUERIES - 1_800) < 0.45
        assert [x.query for x in a.log[:1]] == [x.query for x in b.log[:1]]
        assert a.log[:300] != b.log[:300]


def test_items_are_delisted_and_their_ids_are_not_given_again() -> None:
    gone: set[str] = set()
    for a, b in zip(months(), months()[1:], strict=False):
        sold = {i.id for i in b.market.items}
        left = {i.id for i in a.market.items} - sold
        assert 0.005 < len(left) / len(a.market.items) < 0.03
        gone |= left
        assert not gone & sold
        assert len(sold) == len(b.market.items)


def test_new_brands_and_types_are_sold_and_asked_for_from_month_1_on() -> None:
    before, *later = months()
    assert not {b.name for b in before.market.brands} & set(PLAN[1].brands)
    assert not share(before, says(*INVENTED, *NEW_TYPES))
    for month in later:
        assert {i.brand for i in month.market.items} >= set(PLAN[1].brands)
        assert {i.type for i in month.market.items} >= {own for own, _ in PLAN[1].types.values()}
        assert share(month, says(*NEW_TYPES)) > 0.005
        assert share(month, says(*INVENTED)) > 0.002
    asked_by_common_word = [
        x for x in later[0].log for p in x.parts if p.role == "brand" and p.text in PLAN[1].brands[:12]
    ]
    assert len(asked_by_common_word) > 10


def test_a_season_lasts_two_months() -> None:
    found = [
        share(m, lambda ask: ask.item is not None and ask.item.type in PLAN[2].season) for m in months()
    ]
    calm = [found[i] for i in (0, 1, 4, 5, 6)]
    assert max(calm) < 1.4 * min(calm)
    for number in (2, 3):
        assert 2.5 * max(calm) < found[number] < 4.2 * max(calm)


def test_words_come_into_fashion_in_month_3_and_stay() -> None:
    def mentions(ask: Ask) -> bool:
        named = {p.role for p in ask.parts}
        return ask.item is not None and ask.item.type in PLAN[3].words and "product" in named

    slang, trailers = says(*PLAN[3].words.values()), says(*PLAN[3].trailers)
    for month in months()[:3]:
        assert not share(month, slang)
        assert not share(month, trailers)
    for month in months()[3:]:
        of_mentions = sum(slang(a) for a in month.log if mentions(a)) / sum(map(mentions, month.log))
        assert 0.5 < of_mentions < 0.65
        assert 0.02 < share(month, trailers) < 0.06
        words = {p.role for a in month.log for p in a.parts if p.text in PLAN[3].trailers}
        assert words == {None}


def test_a_department_is_renamed_in_month_4_in_catalogue_and_gold(written: list[Path]) -> None:
    for number, folder in enumerate(written):
        name, other = ("Hot Drinks", "Coffee and Tea")[:: 1 if number < 4 else -1]
        catalogue = Counter(i.values("category.root")[0] for i in read_catalogue(folder / "catalogue.jsonl"))
        gold = Counter(x.text for e in read_labels(folder / "gold_test.jsonl", task_of_month(number)) for x in e.labels)
        assert (catalogue[name] > 50, catalogue[other]) == (True, 0)
        assert (gold[name] > 20, gold[other]) == (True, 0)


def test_gold_of_month_4_says_that_the_task_file_has_the_old_name(written: list[Path]) -> None:
    with pytest.raises(InputError, match="'Coffee and Tea' is not a value of 'department'"):
        read_labels(written[4] / "gold_test.jsonl", load_task("configs/market.yaml").task)


def purchases(folder: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in rows(folder / "conversions.jsonl"):
        found[str(row["item_id"])] += int(str(row["count"]))
    return found


def test_a_third_of_the_conversions_is_missing_in_month_5(written: list[Path]) -> None:
    """And those of whole departments: what is left is no random part."""
    bought = [purchases(folder) for folder in written]
    total = [sum(b.values()) for b in bought]
    usual = (total[4] + total[6]) / 2
    assert 0.28 < 1 - total[5] / usual < 0.39
    for number in (0, 4, 5, 6):
        departments = {i.id: i.department for i in months()[number].market.items}
        lost = sum(n for item, n in bought[number].items() if departments[item] in PLAN[5].unrecorded)
        assert (lost == 0) == (number == 5)


def test_conversions_of_new_items_lag_behind(written: list[Path]) -> None:
    """Purchases a sold item, of those launched in month 1 against those always sold: 0.4, then 0.8, then 1."""
    launched = {i.id for i in months()[1].market.items} - {i.id for i in months()[0].market.items}
    rates = []
    for number in (1, 2, 3):
        month = months()[number]
        bought = purchases(written[number])
        asked_for: Counter[bool] = Counter()
        for ask, count in zip(month.log, month.counts, strict=True):
            fitting = month.market.fitting(ask)
            for item in fitting:
                asked_for[item.id in launched] += min(40, int(0.3 * count) + 0.5) / len(fitting)
        got = Counter({new: sum(n for i, n in bought.items() if (i in launched) == new) for new in (True, False)})
        rates.append(got[True] / asked_for[True] / (got[False] / asked_for[False]))
    assert 0.3 < rates[0] < 0.55
    assert 0.7 < rates[1] < 0.95
    assert 0.9 < rates[2] < 1.15


def test_only_gold_tells_of_roles_and_departments(written: list[Path]) -> None:
    allowed = {
        "queries.jsonl": {"query", "count"}, "conversions.jsonl": {"query", "item_id", "count"},
        "catalogue.jsonl": {"id", "title", "brand", "category", "attributes"},
    }
    for folder in written:
        for file, keys in allowed.items():
            assert {k for row in rows(folder / file) for k in row} == keys
        assert {p.name for p in folder.iterdir()} == set(FILES.values())


def test_a_task_without_a_month_is_dumped_as_before() -> None:
    task = load_task("configs/market.yaml").task
    assert "sample_month" not in task.model_dump(mode="json")["data"]
    moved = load_task("configs/market.yaml", ["data.sample_month=3"]).task
    assert moved.model_dump(mode="json")["data"]["sample_month"] == 3


@pytest.mark.parametrize(("settings", "said"), [
    (["data.sample_month=-1"], "sample_month"), (["data.sample_month=25"], "sample_month"),
    (["data.sample=null", "data.dir=.", "data.queries=q.jsonl", "data.sample_month=2"], "needs `sample: market`"),
])
def test_a_month_that_there_is_not_is_refused(settings: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_task("configs/market.yaml", settings)


def test_a_negative_month_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        month_of(SEED, queries=500, items=800, number=-1)
