"""Fetching outside data: what the sources' answers and troubles do to our rows and runs."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from config import load_settings
from data_fetch import legislators, quiver_congress, quiver_insider
from data_fetch.source_line import SourceError
from environment import ConfigError
from tests.flow.sources import HTML, KEY, NOW, Answer, Desk, bulk_record, insider_record, live_record

LIVE, BULK, INSIDERS = quiver_congress.LIVE, quiver_congress.BULK_CONGRESS, quiver_insider.LIVE
REVOKE = "REVOKE INSERT ON audit.data_ingestion_run_records FROM trading_app"


def test_the_same_answer_twice_changes_nothing_and_a_changed_record_is_updated(desk: Desk) -> None:
    records = [live_record(), live_record(), live_record(Ticker="--", BioGuideID="E000002")]
    desk.sources.files[LIVE] = records
    assert desk.counts() == (3, 3, 0, 0)
    first = desk.trades()
    assert [(row["symbol"], row["lot"], row["tradable"]) for row in first] == [
        ("NVDA", 0, True), ("NVDA", 1, True), (None, 0, False),
    ]
    assert (first[0]["available_at"], first[0]["data_ingestion_run_id"]) == (NOW, desk.runs()[0]["id"])
    assert (first[0]["amount_low"], first[0]["amount_high"], first[0]["side"]) == (15001, 50000, "buy")
    desk.clock.sleep(3600)
    # Returns move every day, and mean nothing to us.
    desk.sources.files[LIVE] = [record | {"ExcessReturn": 9.75} for record in records]
    assert desk.counts() == (3, 0, 0, 3)
    assert desk.trades() == first
    for change, column, value in (
        ({"Party": "I"}, "party", "I"), ({"Range": "$15,001 - $60,000"}, "amount_high", 60000),
        ({"last_modified": "2025-03-13"}, "vendor_modified", "2025-03-13"),
        ({"ReportDate": "2025-03-12"}, "disclosure_date", date(2025, 3, 12)),
    ):
        desk.sources.files[LIVE] = [live_record(**change), live_record()]
        before = desk.trades()
        assert desk.counts() == (2, 0, 1, 1)
        changed = [new for new, old in zip(desk.trades(), before, strict=True) if new[column] != old[column]]
        assert [row[column] for row in changed] == [value]
        assert (changed[0]["available_at"], changed[0]["updated_at"]) == (NOW, desk.clock.now())
        desk.sources.files[LIVE] = [live_record(), live_record()]
        assert desk.counts() == (2, 0, 1, 1)
    desk.sources.files[LIVE] = []
    row = desk.run()
    assert (row["status"], row["records_fetched"], row["data_date_start"]) == ("completed", 0, None)
    assert len(desk.trades()) == 3


def test_equal_trades_are_told_apart_by_their_report_dates(desk: Desk) -> None:
    february, march = live_record(ReportDate="2025-02-25"), live_record()
    desk.sources.files[LIVE] = [february]
    assert desk.counts() == (1, 1, 0, 0)
    desk.sources.files[LIVE] = [march, february]
    assert desk.counts() == (2, 1, 0, 1)
    desk.sources.files[LIVE] = [march]  # the older one has aged out
    assert desk.counts() == (1, 0, 0, 1)
    assert [row["disclosure_date"] for row in desk.trades()] == [date(2025, 2, 25), date(2025, 3, 10)]
    desk.sources.files[LIVE] = [live_record(ReportDate="2025-03-11"), february]
    assert desk.counts() == (2, 0, 1, 1)


def test_records_that_cannot_be_used_are_put_aside_with_the_reason(desk: Desk) -> None:
    bad = live_record(TransactionDate="2025-03-11", Representative="Nul\x00 \ud800")
    desk.sources.files[LIVE] = [bad, bad, live_record(Representative="Nul\x00 \ud800"), 7]
    assert desk.counts() == (4, 1, 0, 3)
    aside = sorted(desk.db.query("quarantined_records"), key=lambda row: int(row["id"]))
    assert [row["reason"] for row in aside] == [
        "it was reported on 2025-03-10, before the trade on 2025-03-11"] * 2 + ["it is not an object"]
    assert '"BioGuideID": "E000001"' in aside[0]["record"]
    assert desk.counts() == (4, 0, 0, 4)
    assert len(desk.db.query("quarantined_records")) == 3
    junction = desk.db.query("data_ingestion_run_records")
    assert len([row for row in junction if row["record_type"] == "quarantined_records"]) == 6
    desk.sources.files[LIVE] = [{"Name": "Ada", "Filed": "2025-03-10"}]
    assert "none of the 1 records of /beta/live/congresstrading has the field Representative" in desk.refused()


def test_what_the_source_refuses_is_said_plainly_and_the_key_is_nowhere(desk: Desk) -> None:
    desk.sources.files[LIVE] = [live_record(Representative=f"Ada {KEY}")]
    for answer, words in (
        (Answer(401, '{"detail": "Invalid token."}'), "the key (HTTP 401: Invalid token.); check QUIVER_API_KEY"),
        (Answer(403, '"Upgrade your subscription plan to access this dataset."'), "upgrade your plan at Quiver"),
        (Answer(403, f'{{"detail": "no {KEY}"}}'), "(HTTP 403: no [redacted])"),
        (Answer(404, HTML), "Quiver has nothing at /beta/live/congresstrading (HTTP 404: an HTML page)"),
        (Answer(418, "tea"), "did not answer /beta/live/congresstrading (HTTP 418: tea)"),
        (Answer(200, '{"detail": "moved"}'), "where a list belongs"),
        (Answer(302, "", {"Location": "http://elsewhere.example/"}), "which is another host"),
        (Answer(429, "", {"Retry-After": "99999"}), "asks to wait 99999 seconds; run this again after that"),
    ):
        desk.sources.trouble.append(answer)
        assert words in desk.refused()
    assert desk.calls() == [401, 403, 403, 404, 418, 200, 302, 429]
    assert {key for _, _, key in desk.sources.asked} == {f"Bearer {KEY}"}
    desk.run()
    assert desk.trades()[0]["person_name"] == "Ada [redacted]"
    for table in ("api_payloads", "quiver_trades", "data_ingestion_runs", "api_call_logs"):
        assert KEY not in str(desk.db.query(table))


def test_what_may_pass_is_asked_for_again(desk: Desk) -> None:
    desk.sources.files[LIVE] = [live_record()]
    for trouble, waited in (
        ([Answer(429, "", {"Retry-After": "7"}), Answer(429, '{"detail": "Expected available in 9 seconds."}')], 16),
        ([Answer(429, "slow down")], 60), ([Answer(500, "QueuePool")], 5), ([Answer(200, HTML)], 5),
        ([Answer(200, "[1, 2", cut=True)], 5), ([Answer(200, "[]", late=True)], 5),
        ([Answer(307, "", {"Location": f"{LIVE}?again=1"})], 0),
    ):
        before, seen = desk.clock.now(), len(desk.sources.asked)
        desk.sources.trouble.extend(trouble)
        assert desk.run()["status"] == "completed"
        assert (desk.clock.now() - before, len(desk.sources.asked) - seen) == (
            timedelta(seconds=waited), len(trouble) + 1,
        )
    assert desk.calls() == [429, 429, 200, 429, 200, 500, 200, 200, 200, None, 200, None, 200, 307, 200]
    for trouble, words in (
        ([Answer(500, "QueuePool")] * 2, "HTTP 500: QueuePool"), ([Answer(429, "")] * 5, "after 4 waits"),
        ([Answer(200, "[1, 2", cut=True)] * 2, "could not be asked for"),
        ([Answer(200, HTML)] * 2, "not JSON: an HTML page"),
    ):
        desk.sources.trouble.extend(trouble)
        assert words in desk.refused()
    desk.sources.over.set()


def test_the_history_is_read_by_pages_as_far_as_it_is_wanted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiver_congress, "PAGE_SIZE", 3)
    files = desk.sources.files
    files[LIVE] = [live_record()]
    days = [NOW.date() - timedelta(days=number) for number in range(12)]
    files[BULK] = [bulk_record(Filed=f"{day}", Ticker=f"{'ABCDEFGHIJKL'[number]}") for number, day in enumerate(days)]
    assert desk.counts() == (1, 1, 0, 0)  # the live feed is not cut off
    assert desk.counts(days_back=4) == (1, 0, 0, 1)  # and goes back far enough
    assert desk.sources.pages() == []
    assert desk.counts(days_back=5) == (10, 9, 0, 1)
    assert desk.sources.pages() == ["1", "2", "3"]
    # Where the pages are not in order, none is a reason to stop.
    files[BULK].reverse()
    assert desk.counts(days_back=5) == (13, 3, 0, 10)
    # A chamber that fills its part of the feed may have been cut off within the last week.
    monkeypatch.setattr(quiver_congress, "LIVE_CAP", 2)
    files[LIVE] = [live_record(ReportDate="2025-03-12", Ticker="AMD")] * 2
    files[BULK] = [bulk_record(Filed="2025-03-12", Ticker="AMD")] * 2
    assert desk.counts() == (4, 2, 0, 2)


def test_a_history_that_moves_while_it_is_read_leaves_no_record_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quiver_congress, "PAGE_SIZE", 3)
    files = desk.sources.files
    files[LIVE] = []
    # The same trade in five accounts, across two pages: nothing has moved.
    files[BULK] = [bulk_record() for _ in range(5)]
    assert desk.counts(days_back=30) == (5, 5, 0, 0)
    assert desk.sources.pages() == ["1", "2", "1"]
    # One is published between the first page and the second.
    files[BULK] = [bulk_record(Ticker=letter) for letter in "FEDCBA"]
    truth = desk.sources.answer

    def growing(path: str, params: dict[str, str], key: str) -> Answer:
        if params.get("page") == "2" and len(files[BULK]) == 6:
            files[BULK].insert(0, bulk_record(Ticker="G"))
        return truth(path, params, key)

    monkeypatch.setattr(desk.sources, "answer", growing)
    assert desk.counts(days_back=30) == (6, 6, 0, 0)
    assert len(desk.trades()) == 11


def test_no_more_calls_are_made_than_the_source_takes_in_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiver_congress, "PAGE_SIZE", 1)
    desk.sources.files |= {LIVE: [], BULK: [bulk_record(Ticker=letter) for letter in "ABCDEF"]}
    assert desk.counts(days_back=30)[0] == 6
    # Five an hour: the sixth page and the empty seventh wait; the first one's hour is over for both.
    assert desk.clock.now() == NOW + timedelta(hours=1)
    desk.clock.sleep(60)
    desk.run(days_back=30)  # three calls find room beside the two of the run before, the others wait for theirs
    assert desk.clock.now() == NOW + timedelta(hours=2, minutes=1)


def test_insiders_are_read_day_by_day_and_page_by_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiver_insider, "PAGE_SIZE", 2)
    sale = {"TransactionCode": "S", "AcquiredDisposedCode": "D"}
    desk.sources.files[INSIDERS] = [
        insider_record(), insider_record(), insider_record(Shares=200, **sale), insider_record(Shares=5e9),
        insider_record(PricePerShare=None, TransactionCode="G", SharesOwnedFollowing=3.6e9, uploaded="2025-03-07"),
        insider_record(Shares=7, uploaded="2025-03-06"),
    ]
    # The week before and today; the fifth record comes twice by mistake, the fourth cannot be.
    assert desk.counts("insider_daily") == (5, 3, 0, 2)
    assert [(row["shares"], row["side"], row["price"], row["transaction_type"]) for row in desk.trades()] == [
        (100, None, None, "G A"), (100, "buy", Decimal("120.5"), "P A"), (200, "sell", Decimal("120.5"), "S D"),
    ]
    assert (desk.trades()[1]["is_director"], desk.trades()[1]["is_officer"]) == (True, False)
    assert desk.counts("insider_daily", 8) == (6, 1, 0, 5)
    row = desk.runs()[-1]
    assert (row["data_date_start"], row["data_date_end"]) == (date(2025, 3, 13), date(2025, 3, 13))


def test_a_run_that_fails_half_way_keeps_what_it_wrote_and_the_next_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quiver_congress, "PAGE_SIZE", 1)
    desk.sources.files |= {LIVE: [live_record()], BULK: [bulk_record(), bulk_record(Ticker="A")]}
    truth = desk.sources.answer
    monkeypatch.setattr(
        desk.sources, "answer",
        lambda path, params, key: Answer(401, "") if params.get("page") == "2" else truth(path, params, key),
    )
    with pytest.raises(SourceError):
        desk.run(days_back=30)
    failed = desk.runs()[-1]
    assert (failed["records_fetched"], failed["records_created"], failed["records_skipped"]) == (2, 1, 1)
    assert desk.calls() == [200, 200, 401]
    monkeypatch.undo()
    assert desk.counts(days_back=30) == (3, 1, 0, 2)


def test_records_and_what_is_said_of_them_stand_or_fall_together(desk: Desk) -> None:
    desk.sources.files[LIVE] = [live_record()]
    desk.db.execute_update(REVOKE)
    with pytest.raises(Exception, match="permission denied"):
        desk.run()
    row = desk.runs()[-1]
    assert (row["status"], row["records_fetched"], desk.trades()) == ("failed", 0, [])


def test_maintenance_keeps_what_the_files_no_longer_have_and_lifts_old_blocks(desk: Desk) -> None:
    for symbol, hours in (("OLD", 0), ("NEW", 1)):
        desk.db.insert("blocked_assets", {
            "symbol": symbol, "reason": "r", "blocked_at": NOW, "expires_at": NOW + timedelta(hours=hours),
        })
    term = {"type": "rep", "state": "XX", "party": "Democrat"}
    ada = {"id": {"bioguide": "E000001"}, "name": {"first": "Ada", "last": "Example"}, "terms": [{"party": "R"}, term]}
    seats = {"HSXX": [{"bioguide": "E000001", "title": "Chairman"}], "HSXX01": [{"bioguide": "E000001"}, {"rank": 1}]}
    files = desk.sources.files
    files |= {legislators.MEMBERS: [ada], legislators.SEATS: seats, legislators.COMMITTEES: [
        {"type": "house", "name": "Examples", "thomas_id": "HSXX", "subcommittees": [
            {"name": "Few", "thomas_id": "01"},
        ]},
    ]}
    assert desk.counts("maintenance_daily") == (6, 5, 0, 1)
    assert [row["symbol"] for row in desk.db.query("blocked_assets")] == ["NEW"]
    (member,) = desk.db.query("politician_profiles")
    assert [member[name] for name in ("name", "party", "chamber", "created_at")] == ["Ada Example", "D", "house", NOW]
    assert {(row["code"], row["parent_code"]) for row in desk.db.query("committees")} == {
        ("HSXX", None), ("HSXX01", "HSXX"),
    }
    files[legislators.SEATS] = {"HSXX": [{"bioguide": "E000001", "title": "Ranking Member"}]}
    assert desk.counts("maintenance_daily") == (4, 0, 1, 3)
    assert {(row["committee_code"], row["role"]) for row in desk.db.query("committee_memberships")} == {
        ("HSXX", "Ranking Member"), ("HSXX01", None),
    }
    files[legislators.SEATS] = {}
    assert "one of the files is empty" in desk.refused("maintenance_daily")


def test_where_the_files_are_not_the_old_api_is_read(desk: Desk) -> None:
    for house, code in (("house", "HSXX"), ("senate", "SSXX"), ("joint", "JSXX")):
        seat = {"id": f"{code[0]}000001", "name": "Ada Example", "party": "D", "state": "XX", "note": "Chair"}
        desk.sources.files |= {
            f"/119/{house}/committees.json": {"results": [{"committees": [
                {"id": code, "name": "Examples", "subcommittees": [{"id": f"{code}01", "name": "Few"}]},
            ]}]},
            f"/119/{house}/committees/{code}.json": {"results": [{"current_members": [seat]}]},
        }
    assert desk.counts("maintenance_daily") == (11, 11, 0, 0)
    assert {row["chamber"] for row in desk.db.query("politician_profiles")} == {"house", "senate"}
    assert {row["role"] for row in desk.db.query("committee_memberships")} == {"Chair"}
    desk.sources.files["/119/joint/committees.json"] = {"status": "ERROR"}
    assert "/119/joint/committees.json has no results" in desk.refused("maintenance_daily")


def test_a_task_without_its_key_starts_no_run(desk: Desk) -> None:
    desk.settings = load_settings(True, {"QUIVER_BASE_URL": desk.sources.url})
    with pytest.raises(ConfigError, match="QUIVER_API_KEY is not set"):
        desk.run()
    assert desk.runs() == []


def test_the_bundled_samples_need_nothing(desk: Desk) -> None:
    desk.settings = load_settings(True, {})
    desk.clock.set(datetime(2025, 6, 3, 11, 0, tzinfo=UTC))
    for task in ("congress_daily", "insider_daily", "maintenance_daily"):
        assert desk.run(task)["records_created"] > 0
    assert max(trade["disclosure_date"] for trade in desk.trades()) == date(2025, 6, 3)
    assert desk.sources.asked == []
