"""The account as a pass begins: asked for once, with an alert while the broker lets it trade nothing."""

from alpaca_client import Broker, JsonObject
from audit_trail import AlertKind
from pass_log import PassLog
from risk_checks import Hold, check_account
from risk_gate import read_account

SUBJECT = "account"


def ask_for_account(broker: Broker, found: PassLog) -> JsonObject:
    """Return the broker's answer about the account.

    Raises BrokerError, also for an account that is not the pinned one, and DatabaseError.
    """
    with found.reading(SUBJECT):
        answer = broker.account()
    check = check_account(read_account(answer))
    if check.refusal is None:
        found.resolve((AlertKind.ACCOUNT_BLOCKED,), (SUBJECT,))
    elif check.hold is Hold.HALTED:
        words = f"{check.refusal}; until then entries wait, and an exit that is needed may be refused"
        found.critical(AlertKind.ACCOUNT_BLOCKED, SUBJECT, words)
    return answer
