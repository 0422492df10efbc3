"""Members of Congress, committees and who sits on them: from the files of unitedstates/congress-legislators, or from a
mirror of the old ProPublica API, whichever is at LEGISLATORS_BASE_URL; and the daily care of blocked symbols.

A seat that a later file no longer has stays; the seats that a run saw are in its junction rows.
"""

from collections.abc import Iterator
from typing import Any

from data_fetch.job import Job
from data_fetch.records import Row, sort_out
from data_fetch.source_line import NotFoundError, SourceError
from data_fetch.values import RecordError, chamber, party, text
from progress import progress

MEMBERS, COMMITTEES, SEATS = (
    "/legislators-current.json", "/committees-current.json", "/committee-membership-current.json",
)
CHAMBERS = ("house", "senate", "joint")
LONGEST_JURISDICTION = 5000
ROLES = {"chairman": "Chair", "chairwoman": "Chair", "chair": "Chair", "ranking member": "Ranking Member"}


def fetch(job: Job) -> None:
    """Read members, committees and seats. Raises SourceError and DatabaseError."""
    try:
        members = job.line.rows(MEMBERS)
    except NotFoundError:
        _fetch_mirror(job)
        return
    committees, seats = job.line.rows(COMMITTEES), job.line.get(SEATS)
    if not isinstance(seats, dict):
        raise SourceError(f"{SEATS} is a list where a map from committee to members belongs")
    if not members or not committees or not seats:
        raise SourceError("one of the files is empty, and Congress is not; nothing was changed")
    job.records.save("politician_profiles", sort_out(members, member))
    job.records.save("committees", sort_out(_with_subcommittees(committees), committee))
    job.records.save("committee_memberships", sort_out(_seats(seats), seat))


def _with_subcommittees(committees: list[Any]) -> Iterator[Any]:
    """Yield committees, each followed by its subcommittees with the parent's type and code."""
    for found in committees:
        yield found
        subcommittees = found.get("subcommittees") if isinstance(found, dict) else None
        for sub in subcommittees if isinstance(subcommittees, list) else []:
            if not isinstance(sub, dict):
                yield sub
                continue
            parent = found.get("thomas_id")
            code = f"{parent or ''}{sub.get('thomas_id') or ''}"
            yield sub | {"type": found.get("type"), "thomas_id": code, "parent": parent}


def _seats(seats: dict[str, Any]) -> Iterator[Any]:
    for code, members in seats.items():
        for found in members if isinstance(members, list) else [members]:
            yield found | {"committee": code} if isinstance(found, dict) else found


def member(record: Row) -> Row:
    """Return a member of the file as a row, as of the last term. Raises RecordError."""
    name, terms = record.get("name"), record.get("terms")
    term = terms[-1] if isinstance(terms, list) and terms else None
    if not isinstance(name, dict) or not isinstance(record.get("id"), dict) or not isinstance(term, dict):
        raise RecordError("it has no name, id or terms")
    names = (name.get("official_full"), " ".join(filter(None, (text(name.get("first")), text(name.get("last"))))))
    return _member(record["id"].get("bioguide"), next(filter(None, names), None), term, chamber(term.get("type")))


def _member(bioguide: Any, name: Any, record: Row, house: str | None) -> Row:
    if not text(bioguide) or not text(name):
        raise RecordError("it has no bioguide id or no name")
    return {
        "bioguide_id": text(bioguide), "name": text(name), "party": party(record.get("party")),
        "state": text(record.get("state")), "chamber": house,
    }


def committee(record: Row) -> Row:
    """Return a committee of the file as a row. Raises RecordError."""
    code, name, house = text(record.get("thomas_id")), text(record.get("name")), chamber(record.get("type"))
    if not code or not name or not house:
        raise RecordError("it has no code, name or chamber")
    return {
        "code": code, "name": name, "chamber": house, "parent_code": text(record.get("parent")),
        "jurisdiction": text(record.get("jurisdiction"), LONGEST_JURISDICTION),
    }


def seat(record: Row) -> Row:
    """Return a seat as a row. Raises RecordError."""
    bioguide, code, title = (text(record.get(name)) for name in ("bioguide", "committee", "title"))
    if not bioguide or not code:
        raise RecordError("it has no bioguide id or no committee")
    return {"bioguide_id": bioguide, "committee_code": code, "role": ROLES.get((title or "").lower(), title)}


def _fetch_mirror(job: Job) -> None:
    """Read the old ProPublica shape: a list of committees for each chamber, and each committee with its members."""
    year = job.today().year if (job.today().month, job.today().day) >= (1, 3) else job.today().year - 1
    congress = (year - 1789) // 2 + 1
    listed = [
        {"type": house} | found if isinstance(found, dict) else found
        for house in CHAMBERS for found in _result(job, f"/{congress}/{house}/committees.json").get("committees") or []
    ]
    if not listed:
        raise SourceError("the mirror lists no committee, and Congress has some; nothing was changed")
    job.records.save("committees", sort_out(_mirrored_with_subcommittees(listed), committee))
    with progress("committees", len(listed)) as advance:
        for found in listed:
            if isinstance(found, dict) and text(found.get("id")):
                _fetch_seats(job, congress, found)
            advance()


def _mirrored_with_subcommittees(listed: list[Any]) -> Iterator[Any]:
    for found in listed:
        if not isinstance(found, dict):
            yield found
            continue
        yield found | {"thomas_id": found.get("id")}
        for sub in found.get("subcommittees") or []:
            known = {"type": found["type"], "parent": found.get("id")}
            yield known | sub | {"thomas_id": sub.get("id")} if isinstance(sub, dict) else sub


def _fetch_seats(job: Job, congress: int, found: Row) -> None:
    code, house = found["id"], found["type"]
    seats = _result(job, f"/{congress}/{house}/committees/{code}.json").get("current_members") or []
    # The chamber of those on a joint committee is not told; they sit on others as well.
    if house != "joint":
        job.records.save("politician_profiles", sort_out(
            seats, lambda record: _member(record.get("id"), record.get("name"), record, house),
        ))
    job.records.save("committee_memberships", sort_out(
        seats, lambda record: seat({
            "bioguide": record.get("id"), "committee": code, "title": record.get("note"),
        }),
    ))


def _result(job: Job, path: str) -> Row:
    answer = job.line.get(path)
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or not results or not isinstance(results[0], dict):
        raise SourceError(f"{path} has no results where those of the ProPublica API belong")
    return dict(results[0])
