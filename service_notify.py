"""Tells the service manager (systemd, Type=notify) how the process is: a datagram to the socket it named."""

import os
import socket

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"


def notify(state: str) -> bool:
    """Send a state such as READY, ALIVE or "STATUS=..." and return whether somebody was told.

    Nobody is where no service manager asked for it (NOTIFY_SOCKET), or when it does not listen; that is no error.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    elif not address.startswith("/"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.connect(address)
            line.sendall(state.encode())
    except OSError:
        return False
    return True
