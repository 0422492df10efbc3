"""Tells people of alerts: what is open and not told yet, what became worse, and what is over, once for each channel.

What was told is in `audit.alert_deliveries`, written before a message leaves and after it, so that a crash repeats it
at most once.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from audit_trail.alerts import AlertKind, AlertLevel, raise_alert, resolve_alerts
from clock import Clock
from config import Settings
from db_layer import Row, TradingDB
from log_setup import printable
from messages import channel_name, send_message
from session_locks import LockTakenError, hold_task

# Alerts that are open or were until lately, and what each channel was last told of them and of their matter.
TELLABLE = """
SELECT alert.id, alert.level, alert.kind, alert.subject, alert.message, alert.occurrences, alert.first_seen_at,
       alert.last_seen_at, alert.acknowledged_at IS NOT NULL AS acknowledged, alert.resolved_at IS NOT NULL AS over,
       channel.name AS channel, said.state, said.sends, said.level AS said_level, said.message AS said_message,
       said.over AS said_over, said.attempted_at, said.told_at,
       matter.told_at AS matter_told_at, matter.level AS matter_level
FROM audit.alerts alert
CROSS JOIN unnest(%(channels)s::text[]) AS channel (name)
LEFT JOIN audit.alert_deliveries said ON said.alert_id = alert.id AND said.channel = channel.name
LEFT JOIN LATERAL (
    SELECT earlier.told_at, earlier.level
    FROM audit.alerts other JOIN audit.alert_deliveries earlier ON earlier.alert_id = other.id
    WHERE other.kind = alert.kind AND other.subject = alert.subject AND other.id <> alert.id
      AND earlier.channel = channel.name AND earlier.told_at IS NOT NULL
    ORDER BY earlier.told_at DESC LIMIT 1
) matter ON true
WHERE alert.resolved_at IS NULL OR alert.resolved_at > %(since)s
ORDER BY alert.id
"""
SENT_LATELY = """
SELECT channel, count(DISTINCT attempted_at) AS messages FROM audit.alert_deliveries
WHERE attempted_at > %(since)s AND state <> 'failed' GROUP BY channel
"""
FAILING_CHANNELS = """
SELECT subject, occurrences, last_seen_at FROM audit.alerts WHERE kind = 'channel_failing' AND resolved_at IS NULL
"""
BEGIN_TELLING = """
INSERT INTO audit.alert_deliveries (alert_id, channel, level, message, over, state, attempted_at)
SELECT id, %(channel)s, level, message, over, 'sending', %(now)s
FROM unnest(%(ids)s::bigint[], %(levels)s::text[], %(messages)s::text[], %(overs)s::boolean[])
     AS alert (id, level, message, over)
ON CONFLICT (alert_id, channel)
DO UPDATE SET level = EXCLUDED.level, message = EXCLUDED.message, over = EXCLUDED.over, state = 'sending',
              sends = CASE WHEN alert_deliveries.state = 'sending' THEN alert_deliveries.sends + 1 ELSE 1 END,
              attempted_at = EXCLUDED.attempted_at
"""
END_TELLING = """
UPDATE audit.alert_deliveries
SET state = %(state)s, told_at = CASE WHEN %(state)s = 'told' THEN %(now)s ELSE told_at END
WHERE channel = %(channel)s AND alert_id = ANY(%(ids)s::bigint[])
"""

TASK = "alert delivery"
STILL_NEWS = timedelta(days=1)  # what ended longer ago is no news
HOUR = timedelta(hours=1)
LONGEST_PAUSE_MINUTES = 60
MOST_SENDS = 2
LONGEST_BODY = 1800  # characters; the strictest of the common channels takes 2000
RANKS = {level: rank for rank, level in enumerate(AlertLevel)}
WHERE_ALL_ARE = "All of them: python -m audit_trail alerts"

log = logging.getLogger("alert_delivery")


def tell_alerts(db: TradingDB, settings: Settings, clock: Clock) -> None:
    """Tell each channel what it should know by now; one message holds all of it.

    Does nothing while another process is at it. A channel that fails is an alert, and is tried again after growing
    pauses. Takes up to half a minute, so never to be called while an account is held. Raises DatabaseError.
    """
    channels = [channel_name(url) for url in settings.messages.alert_urls]
    try:
        with hold_task(db, TASK):
            _forget_others(db, channels, clock.now())
            if channels:
                _tell(db, settings, clock, channels)
    except LockTakenError:
        log.info("another program tells the alerts")


def is_due(row: Row, now: datetime, pause: timedelta) -> bool:
    """Tell whether a channel should hear of an alert now; `row` is one of TELLABLE.

    News are told at once: an alert, a higher level, the end of one that was told. The same matter is told again after
    a pause, when it says something else or is critical and still seen. What a person has acknowledged is not told.
    """
    if row["state"] == "told" or (row["state"] == "sending" and row["sends"] >= MOST_SENDS):
        if row["over"]:
            return not row["said_over"] and row["said_level"] != AlertLevel.INFO
        if row["acknowledged"]:
            return False
        news = row["message"] != row["said_message"]
        critical = row["level"] == AlertLevel.CRITICAL and row["last_seen_at"] > row["attempted_at"]
        rested = now - row["attempted_at"] >= pause
        return _is_worse(row["level"], row["said_level"]) or (rested and (news or critical))
    if row["over"]:
        # A warning that is over before anybody heard of it is nothing to act on.
        return row["told_at"] is not None or (row["level"] != AlertLevel.WARNING and not row["acknowledged"])
    if row["acknowledged"]:
        return False
    if row["state"] is not None or row["matter_told_at"] is None or _is_worse(row["level"], row["matter_level"]):
        return True
    return bool(now - row["matter_told_at"] >= pause)


def _is_worse(level: str, than: str) -> bool:
    return RANKS[AlertLevel(level)] > RANKS[AlertLevel(than)]


def _tell(db: TradingDB, settings: Settings, clock: Clock, channels: Sequence[str]) -> None:
    now, pause = clock.now(), timedelta(minutes=settings.messages.repeat_minutes)
    resting = _resting_channels(db, now)
    sent = {row["channel"]: row["messages"] for row in db.execute_query(SENT_LATELY, {"since": now - HOUR})}
    due: defaultdict[str, list[Row]] = defaultdict(list)
    for row in db.execute_query(TELLABLE, {"channels": list(channels), "since": now - STILL_NEWS}):
        about_itself = row["kind"] == AlertKind.CHANNEL_FAILING and row["subject"] == row["channel"]
        if row["channel"] not in resting and not about_itself and is_due(row, now, pause):
            due[row["channel"]].append(row)
    # Channels that are to hear the same are told by one message.
    groups: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
    for channel, rows in due.items():
        if _is_within_bound(rows, sent.get(channel, 0), settings.messages.most_per_hour):
            groups[tuple(row["id"] for row in rows)].append(channel)
    for group in groups.values():
        _tell_group(db, settings, clock, group, due[group[0]])


def _is_within_bound(rows: Sequence[Row], sent: int, most: int) -> bool:
    critical = any(row["level"] == AlertLevel.CRITICAL and not row["over"] for row in rows)
    return sent < (most if critical else most // 2)


def _tell_group(
    db: TradingDB, settings: Settings, clock: Clock, channels: Sequence[str], rows: Sequence[Row],
) -> None:
    ids = [row["id"] for row in rows]
    with db.transaction():
        for channel in channels:
            db.execute_prepared(BEGIN_TELLING, {
                "channel": channel, "now": clock.now(), "ids": ids, "levels": [row["level"] for row in rows],
                "messages": [row["message"] for row in rows], "overs": [row["over"] for row in rows],
            })
    results = send_message(settings, title_of(rows), body_of(rows), list(channels))
    with db.transaction():
        for channel, error in results.items():
            state = "failed" if error else "told"
            db.execute_prepared(END_TELLING, {"channel": channel, "state": state, "now": clock.now(), "ids": ids})
        _note_channels(db, results, clock.now())


def title_of(rows: Sequence[Row]) -> str:
    """Return the heading of a message: how many alerts of which level it holds."""
    counts = Counter("over" if row["over"] else row["level"] for row in rows)
    words = [f"{counts[word]} {word}" for word in (*reversed(AlertLevel), "over") if counts[word]]
    return f"Trading Monitor: {', '.join(words)}"


def body_of(rows: Sequence[Row]) -> str:
    """Return the text of a message: a line for each alert, the worst first, as many as fit."""
    ordered = sorted(rows, key=lambda row: (row["over"], -RANKS[AlertLevel(row["level"])], row["id"]))
    lines: list[str] = []
    length = 0
    for row in ordered:
        line = _line(row)
        length += len(line) + 1
        if lines and length > LONGEST_BODY:
            lines.append(f"... and {len(ordered) - len(lines)} more")
            break
        lines.append(line)
    return "\n".join([*lines, WHERE_ALL_ARE])


def _line(row: Row) -> str:
    word = "over" if row["over"] else row["level"]
    times = f", seen {row['occurrences']} times" if row["occurrences"] > 1 else ""
    since = f"{row['first_seen_at']:%Y-%m-%d %H:%M} UTC"
    return printable(f"{word.upper()} {row['kind']} {row['subject']}: {row['message']} (since {since}{times})", 500)


def _resting_channels(db: TradingDB, now: datetime) -> set[str]:
    """Return the channels that failed lately: one is tried again after 1, 2, 4, ... minutes, an hour at most."""
    resting = set()
    for row in db.execute_query(FAILING_CHANNELS):
        minutes = min(2 ** min(row["occurrences"] - 1, 10), LONGEST_PAUSE_MINUTES)
        if now - row["last_seen_at"] < timedelta(minutes=minutes):
            resting.add(row["subject"])
    return resting


def _forget_others(db: TradingDB, channels: Sequence[str], now: datetime) -> None:
    gone = [row["subject"] for row in db.execute_query(FAILING_CHANNELS) if row["subject"] not in channels]
    resolve_alerts(db, (AlertKind.CHANNEL_FAILING,), gone, now)


def _note_channels(db: TradingDB, results: Mapping[str, str | None], now: datetime) -> None:
    for channel, error in results.items():
        if error:
            words = f"messages do not reach the channel {channel} of ALERT_URLS: {error}"
            raise_alert(db, AlertLevel.WARNING, AlertKind.CHANNEL_FAILING, channel, words, now)
    resolve_alerts(db, (AlertKind.CHANNEL_FAILING,), [name for name, error in results.items() if not error], now)
