"""Reading an order request: everything that is refused as malformed (422, 40010001)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from paper_broker.values import CENT, cut, number

MALFORMED, RULE, BUSINESS, NOT_FOUND = 40010001, 42210000, 40310000, 40410000

_TYPES = ("market", "limit", "stop", "stop_limit", "trailing_stop")
_TIMES_IN_FORCE = ("day", "gtc", "opg", "cls", "ioc", "fok")
_CLASSES = ("simple", "bracket", "oco", "oto")
_INTENTS = ("buy_to_open", "buy_to_close", "sell_to_open", "sell_to_close")
_LONGEST_ID = 128


class RefusalError(Exception):
    """A request the broker declines, as HTTP status, code and message, with further keys of the body."""

    def __init__(self, status: int, code: int | None, message: str, **context: object) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, object] = (
            {"message": message} if code is None else {"code": code, "message": message}
        )
        self.body.update(context)


def malformed(message: str) -> RefusalError:
    return RefusalError(422, MALFORMED, message)


def rule(message: str, **context: object) -> RefusalError:
    return RefusalError(422, RULE, message, **context)


def business(message: str, **context: object) -> RefusalError:
    return RefusalError(403, BUSINESS, message, **context)


@dataclass(frozen=True)
class Draft:
    """An order request that is well formed; whether it may be placed is for rules.py to say."""

    symbol: str
    side: str
    type: str
    time_in_force: str
    order_class: str = "simple"
    qty: Decimal | None = None
    notional: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    target_price: Decimal | None = None
    loss_stop: Decimal | None = None
    loss_limit: Decimal | None = None
    extended_hours: bool = False
    client_order_id: str = ""
    position_intent: str = ""

    @property
    def fractional(self) -> bool:
        return self.notional is not None or (
            self.qty is not None and self.qty != self.qty.to_integral_value()
        )


def read_draft(body: object) -> Draft:
    """Turn the JSON body of an order request into a Draft; raises RefusalError naming the first fault."""
    fields = _mapping(body, "request body")
    target = _mapping(fields.get("take_profit") or {}, "take_profit")
    loss = _mapping(fields.get("stop_loss") or {}, "stop_loss")
    draft = Draft(
        symbol=_text(fields, "symbol"),
        side=_word(fields, "side", ("buy", "sell")),
        type=_word(fields, "type", _TYPES),
        time_in_force=_word(fields, "time_in_force", _TIMES_IN_FORCE),
        order_class=_word({"order_class": fields.get("order_class") or "simple"}, "order_class", _CLASSES),
        qty=_qty(fields),
        notional=_notional(fields),
        limit_price=price(fields, "limit_price"),
        stop_price=price(fields, "stop_price"),
        trail_price=price(fields, "trail_price"),
        trail_percent=price(fields, "trail_percent"),
        target_price=price(target, "limit_price", "take_profit."),
        loss_stop=price(loss, "stop_price", "stop_loss."),
        loss_limit=price(loss, "limit_price", "stop_loss."),
        extended_hours=_flag(fields, "extended_hours"),
        client_order_id=client_id(fields),
        position_intent=_optional_word(fields, "position_intent", _INTENTS),
    )
    _check_size(draft)
    _check_prices(draft)
    _check_group(draft)
    return draft


def price(fields: Mapping[str, object], name: str, prefix: str = "") -> Decimal | None:
    """Read an optional price above zero."""
    value = _decimal(fields, name, prefix)
    if value is not None and value <= 0:
        raise malformed(f"{prefix}{name} must be > 0")
    return value


def whole_or_part(fields: Mapping[str, object]) -> Decimal | None:
    """Read an optional quantity above zero; decimals beyond the ninth are cut."""
    return _qty(fields)


def client_id(fields: Mapping[str, object]) -> str:
    """Read an optional client order id of at most 128 characters; "" when none was sent."""
    value = fields.get("client_order_id") or ""
    if not isinstance(value, str):
        raise malformed("client_order_id must be a string")
    if len(value) > _LONGEST_ID:
        raise malformed(f"client_order_id must be no more than {_LONGEST_ID} characters")
    return value


def time_in_force(fields: Mapping[str, object]) -> str:
    return _optional_word(fields, "time_in_force", _TIMES_IN_FORCE)


def _mapping(value: object, name: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise malformed(f"{name} format is invalid")
    return cast("Mapping[str, object]", value)


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value in (None, ""):
        raise malformed(f"{name} is required")
    if not isinstance(value, str):
        raise malformed(f"invalid {name}")
    return value


def _word(fields: Mapping[str, object], name: str, allowed: tuple[str, ...]) -> str:
    value = _text(fields, name)
    if value not in allowed:
        raise malformed(f"invalid {'order type' if name == 'type' else name}")
    return value


def _optional_word(fields: Mapping[str, object], name: str, allowed: tuple[str, ...]) -> str:
    return _word(fields, name, allowed) if fields.get(name) else ""


def _flag(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise malformed(f"invalid {name}")
    return bool(value)


def _decimal(fields: Mapping[str, object], name: str, prefix: str = "") -> Decimal | None:
    raw = fields.get(name)
    if raw is None or raw == "":
        return None
    try:
        return number(raw)
    except ValueError as error:
        raise malformed(f"invalid {prefix}{name}") from error


def _qty(fields: Mapping[str, object]) -> Decimal | None:
    value = _decimal(fields, "qty")
    if value is None:
        return None
    if value <= 0 or not cut(value):
        raise malformed("qty must be > 0")
    return cut(value)


def _notional(fields: Mapping[str, object]) -> Decimal | None:
    value = _decimal(fields, "notional")
    if value is None:
        return None
    if value != value.quantize(CENT):
        raise malformed("notional amount must be limited to 2 decimal places")
    if value < 1:
        raise rule("notional amount must be >= 1.00")
    return value


def _check_size(draft: Draft) -> None:
    if draft.qty is None and draft.notional is None:
        raise malformed("qty or notional is required")
    if draft.qty is not None and draft.notional is not None:
        raise malformed("only one of qty or notional is accepted")


def _check_prices(draft: Draft) -> None:
    has_limit, has_stop = draft.limit_price is not None, draft.stop_price is not None
    if draft.type == "market" and (has_limit or has_stop):
        raise malformed("market orders require no stop or limit price")
    if draft.type == "limit" and has_stop:
        raise malformed("limit orders require only limit price")
    if draft.type == "limit" and not has_limit and draft.order_class != "oco":
        raise malformed("limit orders require a limit price")
    if draft.type == "stop" and (has_limit or not has_stop):
        raise malformed("stop orders require only stop price")
    if draft.type == "stop_limit" and not (has_limit and has_stop):
        raise malformed("stop limit orders require both stop and limit price")
    trails = (draft.trail_price is not None) + (draft.trail_percent is not None)
    if draft.type == "trailing_stop" and (trails != 1 or has_limit or has_stop):
        raise malformed("trailing stop orders must specify one of trail_price or trail_percent")
    if draft.type != "trailing_stop" and trails:
        raise malformed("only trailing stop orders accept trail_price or trail_percent")


def _check_group(draft: Draft) -> None:
    target, stop, kind = draft.target_price is not None, draft.loss_stop is not None, draft.order_class
    if draft.loss_limit is not None and not stop:
        raise malformed(f"{kind} orders require stop_loss.stop_price")
    if kind in ("bracket", "oco") and not target:
        raise malformed(f"{kind} orders require take_profit.limit_price")
    if kind in ("bracket", "oco") and not stop:
        raise malformed(f"{kind} orders require stop_loss.stop_price")
    if kind == "oto" and target == stop:
        raise malformed("oto orders require either take_profit or stop_loss")
    if kind == "simple" and (target or stop):
        raise malformed("simple orders must not have take_profit or stop_loss")
    if kind == "oco" and draft.type != "limit":
        raise malformed("oco orders must be limit orders")
