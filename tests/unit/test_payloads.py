"""Payloads: the exact text where it is JSON, a JSON string where it is not, and no secret in either."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit_trail import PayloadPolicy, request_text, response_text

EXACT = [
    '{"qty":"45","limit_price" : 133.80, "a": [1,2 ,3]}',
    '{"a": 1, "a": 2}',
    ' [ ] ',
    '"text"',
    "null",
    "1e400",
    "0.1000000000000000000000000000000001",
    '{"name": "\\u0000 \\ud800 \u00e9 \U0001f600"}',
    "9" * 4300,
]
NOT_JSON = [
    "<html>504 Gateway Time-out</html>",
    "",
    "{",
    '{"a": 1} trailing',
    "\ufeff{}",
    '{"a": "\x00"}',
    '{"a": "\ud800"}',
    '{"price": NaN}',
    "[Infinity]",
    "[-Infinity]",
    "9" * 5000,
    "[1e1000000000000000000000]",
    "[" * 100_000 + "]" * 100_000,
    '{"a": ' * 5000 + "1" + "}" * 5000,
]
SECRET = "s3cret-example"


@pytest.mark.parametrize("body", EXACT, ids=range(len(EXACT)))
def test_a_json_body_stands_in_the_text_letter_for_letter(body: str) -> None:
    assert request_text("POST", "/v2/orders", {}, body).endswith(f'"body": {body}}}')
    assert response_text(200, {}, body).endswith(f'"body": {body}}}')


@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
def test_a_body_that_is_not_json_is_kept_as_a_string(body: str) -> None:
    assert json.loads(response_text(502, {}, body))["body"] == body


@pytest.mark.parametrize("body", NOT_JSON + EXACT, ids=range(len(NOT_JSON) + len(EXACT)))
def test_every_body_can_be_digested(body: str) -> None:
    text = response_text(200, {}, body)
    payload = PayloadPolicy().payload(text)
    data = text.encode()
    assert (payload.kept, payload.sha256, payload.byte_length) == (text, hashlib.sha256(data).hexdigest(), len(data))


def test_no_body_is_null() -> None:
    assert json.loads(request_text("GET", "/v2/account", {"a": "b"}, None)) == {
        "method": "GET", "endpoint": "/v2/account", "params": {"a": "b"}, "body": None,
    }


def test_a_transport_error_takes_the_place_of_an_answer() -> None:
    assert json.loads(response_text(None, {}, None, "read timed out")) == {
        "status": None, "headers": {}, "error": "read timed out", "body": None,
    }


@given(st.text())
@example("1E100")
def test_any_body_whatever_leaves_a_json_text_that_reads_back(body: str) -> None:
    text = response_text(200, {"X-Request-ID": body}, body)
    PayloadPolicy().payload(text)
    read = json.loads(text, parse_float=Decimal)
    assert read["headers"]["X-Request-ID"] == body
    assert read["body"] == body or read["body"] == json.loads(body, parse_float=Decimal)


def test_without_the_audit_trail_only_digests_are_kept() -> None:
    text = request_text("POST", "/v2/orders", {}, '{"qty": "45"}')
    kept, digest = PayloadPolicy().payload(text), PayloadPolicy(keep_bodies=False).payload(text)
    assert digest.kept is None
    assert (digest.sha256, digest.byte_length) == (kept.sha256, kept.byte_length)


@pytest.mark.parametrize("secret", [SECRET, 'quote " and \\', "schl\u00fcssel-\u00e4"])
def test_a_secret_is_removed_before_anything_is_digested(secret: str) -> None:
    policy = PayloadPolicy(secrets=("", secret))
    body = json.dumps({"key": secret, "raw": f"x{secret}y"})
    payload = policy.payload(response_text(200, {"Echo": secret}, body, f"refused {secret}"))
    assert payload.kept is not None
    assert secret not in payload.kept
    assert json.dumps(secret)[1:-1] not in payload.kept
    assert payload.kept.count("[redacted]") == 4
    assert payload.sha256 == hashlib.sha256(payload.kept.encode()).hexdigest()
    assert json.loads(payload.kept)["body"]["key"] == "[redacted]"


@pytest.mark.parametrize("secret", ["4", '"', "{", "\\"])
def test_a_secret_that_tears_the_json_leaves_a_json_string(secret: str) -> None:
    payload = PayloadPolicy(secrets=(secret,)).payload(request_text("POST", "/v2/orders", {}, '{"qty": 45}'))
    assert payload.kept is not None
    json.loads(payload.kept)


def test_secrets_do_not_show_in_the_policy_as_text() -> None:
    assert SECRET not in repr(PayloadPolicy(secrets=(SECRET,)))
