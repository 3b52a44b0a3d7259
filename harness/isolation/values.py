"""Values between two processes of the harness, by plain pickle: tensors travel by value, where the
pickle of ``multiprocessing`` would share their memory."""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection
from typing import Any


def give(channel: Connection, value: Any) -> None:
    """Send a value; one that cannot be pickled raises before anything is sent."""
    channel.send_bytes(pickle.dumps(value))


def take(channel: Connection) -> Any:
    """The next value.

    Raises:
        EOFError: where the other process is gone.
    """
    return pickle.loads(channel.recv_bytes())
