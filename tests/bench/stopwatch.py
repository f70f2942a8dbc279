"""Runs inside a laptop of the lab and measures the programs that it is told to run: `race.Stopwatch` tells it.

One question a line on standard input, one answer a line on standard output, both JSON.  Started inside the laptop it
times the programs alone, without the nsenter(1) that all others of the lab are started by.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Answer until the questions end."""
    output = os.memfd_create("output")
    for line in sys.stdin:
        question = json.loads(line)
        if "hold" in question:
            os.makedirs(os.path.dirname(question["hold"]), exist_ok=True)
            os.mkfifo(question["hold"])
            os.open(question["hold"], os.O_RDWR | os.O_NONBLOCK)  # open until the end
            answer = {}
        else:
            answer = measure(question, output)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def measure(question: dict[str, Any], output: int) -> dict[str, Any]:
    """Run the programs of each of the question's steps at once, one step after the other; return what they took.

    wall: from the first start to the last end, seconds; cpu: user and system time of the programs and of all that they
    waited for, getrusage(2), seconds.
    """
    os.ftruncate(output, 0)
    os.lseek(output, 0, os.SEEK_SET)
    source = os.memfd_create("input")
    os.write(source, question["text"].encode())
    answer: dict[str, Any] = {"cpu": 0.0, "failed": []}
    began = time.perf_counter()
    for step in question["steps"]:
        os.lseek(source, 0, os.SEEK_SET)
        pids = {start(argv, question["environment"], source, output): argv for argv in step}
        for pid, argv in pids.items():
            _, status, usage = os.wait4(pid, 0)
            answer["cpu"] += usage.ru_utime + usage.ru_stime
            if status:
                answer["failed"].append([argv, os.waitstatus_to_exitcode(status)])
    answer["wall"] = time.perf_counter() - began
    os.close(source)
    os.lseek(output, 0, os.SEEK_SET)
    answer["output"] = os.read(output, 1 << 16).decode(errors="replace")
    return answer


def start(argv: list[str], environment: dict[str, str], source: int, output: int) -> int:
    """Start a program and return its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate((source, output, output))]
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsigdef=[13])  # SIGPIPE, Python's own


if __name__ == "__main__":
    main()
