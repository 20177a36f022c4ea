"""What holds for every test."""

from __future__ import annotations

import signal

# A shell starts what runs in its background with interrupts ignored, and so would every process that a test starts be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
