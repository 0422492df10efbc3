"""Asks for HEARTBEAT_URL after a healthy cycle, so that somebody outside notices when nothing runs any more."""

import logging
import threading

import requests

from config import Settings

TIME_LIMIT_SECONDS = 10.0

log = logging.getLogger("heartbeat")


def beat(settings: Settings, seconds: float = TIME_LIMIT_SECONDS) -> threading.Thread | None:
    """Begin to ask for HEARTBEAT_URL and return at once; None where there is none.

    It is done in a thread that the end of the process does not wait for. What goes wrong is a line of the log,
    without the address, which is a secret.
    """
    url = settings.messages.heartbeat_url
    if not url:
        return None
    asking = threading.Thread(target=_ask, args=(url, seconds), name="heartbeat", daemon=True)
    asking.start()
    return asking


def _ask(url: str, seconds: float) -> None:
    try:
        status = requests.get(url, timeout=seconds).status_code
    except requests.RequestException as error:  # whose words may hold the address
        log.warning("HEARTBEAT_URL was not reached", extra={"error": type(error).__name__})
        return
    if status >= requests.codes.bad_request:
        log.warning("HEARTBEAT_URL answered with an error", extra={"status": status})
