"""Where the time goes, as text: `make profile` writes `bench/profile.txt`.

Two parts, each from a run on a database of its own: the engine in this process (transfers, batches
of 1,000), looked at every two milliseconds, and an API process under 32 callers, by the processor
time of its threads. A look is counted for the innermost function that is the product's; a thread
that waits is left out. Looking costs the run a few per cent; nothing else is added.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Self

from bench.documents import Documents
from bench.http_single import POSTINGS
from bench.in_process import engine_s
from bench.load import Plan, post_load
from bench.machine import machine_description
from bench.place import BOOK, Place, engine_on, parser
from bench.processes import api_server
from bench.usage import TICKS_PER_S
from infra.settings import load_settings

LOOK_S = 0.002
TRANSFERS, POSTED, CALLERS = 60_000, 20_000, 32
SHOWN = 14
ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ledger", "accounting", "projections", "consumers", "infra", "bench")
WAITING = ("threading.py", "selectors.py", "queue.py")


class Looks:
    """What every other thread of this process was doing, look by look."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.looks = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="looks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK_S):
            self.looks += 1
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():  # noqa: SLF001
                place = place_of(frame)
                if place and names.get(ident) != "looks":
                    self.counts.setdefault(names.get(ident, "?"), Counter())[place] += 1


def place_of(frame: FrameType | None) -> str:
    """Return the innermost function of the product, empty when the thread waits."""
    if frame is not None and frame.f_code.co_filename.endswith(WAITING):
        return ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS:
            return f"{path.relative_to(ROOT)}: {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def threads_cpu_s(pid: int) -> dict[int, float]:
    """Return the processor time of each thread of a process, by thread id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return found


def profile_engine(place: Place) -> str:
    """Post transfers in this process; return the functions of each thread by their looks."""
    documents = Documents(seed=21).transfers(TRANSFERS)
    with engine_on(place.database("profile"), batch_size_max=1_000) as engine, Looks() as looks:
        seconds = engine_s(engine, parser(), documents, 1_000)
    parts = [f"Engine in process, {TRANSFERS:,} transfers, batches of 1,000: {seconds:.1f} s"]
    for thread, counts in sorted(looks.counts.items(), key=lambda item: -item[1].total()):
        share = counts.total() / looks.looks
        parts.append(f"\n  {thread}: in the product's code in {share:.0%} of {looks.looks:,} looks")
        parts += [
            f"    {count / counts.total():6.1%}  {where}"
            for where, count in counts.most_common(SHOWN)
        ]
    return "\n".join(parts)


def profile_api(place: Place) -> str:
    """Post single operations over HTTP; return the processor time of the API's threads."""
    with api_server(place.database("profile_api"), place.folder) as (url, (api,)):
        pid = api.process.pid
        before = threads_cpu_s(pid)
        bodies = Documents(seed=22).recharges_with_fee(POSTED)
        plan = Plan(url, POSTINGS, place.key, BOOK, CALLERS, "application/json", bodies)
        report = post_load(plan)
        used = {tid: cpu_s - before.get(tid, 0.0) for tid, cpu_s in threads_cpu_s(pid).items()}
    title = f"API process, {POSTED:,} recharges with a fee, {CALLERS} callers"
    parts = [f"{title}: {report.per_s:,.0f}/s; µs of a processor for a posting, by thread"]
    for tid, cpu_s in sorted(used.items(), key=lambda item: -item[1]):
        if cpu_s > 0.01:
            name = "event loop" if tid == pid else "another thread (the engine has most)"
            parts.append(f"    {cpu_s / POSTED * 1e6:6.0f}  {name}")
    parts.append(f"    {report.cpu_s / POSTED * 1e6:6.0f}  load generator (a process of its own)")
    return "\n".join(parts)


def main() -> None:
    """Print both parts behind a description of the machine."""
    with Place(load_settings().home / "bench") as place:
        machine = machine_description(place.url, place.folder)
        wanted = ("processor", "load before", "Python", "PostgreSQL", "commit")
        print("\n".join(f"{name}: {machine[name]}" for name in wanted))
        print(f"\n{profile_engine(place)}\n\n{profile_api(place)}")


if __name__ == "__main__":
    main()
