"""What the checks in the machine stand on: their list, and how they say how they went."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

G = TypeVar("G")
Check = Callable[[G], None]

JOURNAL = ["journalctl", "--boot", "--no-pager", "--quiet", "--output=short-monotonic", "--lines=60"]


def run_checks(checks: list[Check[G]], guest: G) -> int:
    """Run the checks in their order and say how each went, in the Test Anything Protocol.

    Returns an exit status: whether all went well.
    """
    failed = 0
    print(f"1..{len(checks)}", flush=True)
    for number, check in enumerate(checks, 1):
        began = time.monotonic()
        try:
            check(guest)
        except Exception:  # whatever it is, it is to be told, and the next check to be made
            failed = 1
            print(f"not ok {number} - {check.__name__}")
            journal = subprocess.run(JOURNAL, capture_output=True, text=True).stdout
            for line in f"{traceback.format_exc()}{journal}".splitlines():
                print(f"# {line}")
        else:
            print(f"ok {number} - {check.__name__}")
        print(f"# {check.__name__}: {time.monotonic() - began:.1f} s")
        sys.stdout.flush()
    print("# end", flush=True)
    return failed
