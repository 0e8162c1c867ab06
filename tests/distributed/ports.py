"""Ports for tests that run beside each other."""

import random
import socket


def free_port():
    """One that nobody listens on, below those that connections going out take (from 32768 on)."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
