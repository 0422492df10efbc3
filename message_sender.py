"""The process that speaks to the channels: reads title, body and Apprise URLs as JSON, says how each went, and ends.

A process of its own, because Apprise needs more memory than an idle daemon should, and a channel may hang.
"""

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

AT_ONCE = 8


def main() -> int:
    """Send one message to all channels; a line of JSON for each: its number, and an error or null."""
    order = json.load(sys.stdin)
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sending = {
            pool.submit(_send, url, order["title"], order["body"]): number for number, url in enumerate(order["urls"])
        }
        for done in as_completed(sending):
            # A plugin is somebody else's code, and its channel one of several.
            trouble = done.exception()
            error = done.result() if trouble is None else f"{type(trouble).__name__}: {trouble}"
            print(json.dumps([sending[done], error]), flush=True)
    return 0


def _send(url: str, title: str, body: str) -> str | None:
    from apprise import Apprise, NotifyBase, NotifyFormat, OverflowMode

    # Else a chat refuses all of a text that is too long for it; ?overflow=truncate in a URL goes before this.
    NotifyBase.overflow_mode = OverflowMode.SPLIT
    channel = Apprise()
    if not channel.add(url):
        return "Apprise does not understand this URL"
    result = channel.notify(title=title, body=body, body_format=NotifyFormat.TEXT)
    if result:
        return None
    said = [entry.message for entry in result.logs() if entry.level in ("WARNING", "ERROR", "CRITICAL")]
    return "; ".join(said) or "Apprise could not send it and does not say why"


if __name__ == "__main__":
    sys.exit(main())
