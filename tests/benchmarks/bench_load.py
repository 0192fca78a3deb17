"""Reading many records: with the index beside them, and without, as a ratio measured side by side in one run.

    PYTHONPATH=. python tests/benchmarks/bench_load.py [--records 10000]

The records are this project's own, again and again under other seeds. Cold: no index; every file is read and checked.
Warm: the index is there and nothing has changed. Seconds are wall clock, in parentheses those of the processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from results import index, load
from transfer.record import SCHEMA, read_record, run_id

ROOT = Path(__file__).resolve().parents[2]


def write_many(folder: Path, count: int) -> None:
    """So many records, of other seeds than those of results/records."""
    models = [read_record(path) for path in sorted((ROOT / "results" / "records").rglob("*.json"))]
    for number in range(count):
        content = dataclasses.asdict(models[number % len(models)])
        content["seed"] = 1000 + number
        decisive = [content[name] for name in ("engine", "recipe", "data", "seed")]
        checkpoint = content["checkpoint"]
        content["run_id"] = run_id(
            content["task"], content["task_version"], checkpoint["sha256"], checkpoint["branch"], *decisive
        )
        path = folder / content["task"] / f"{content['run_id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schema": SCHEMA, **content}, indent=1, sort_keys=True), encoding="utf-8")


def seconds(folder: Path, count: int) -> tuple[float, float]:
    """(wall clock, processor) of one `load`."""
    began, worked = time.perf_counter(), time.process_time()
    frame = load(folder)
    assert len(frame) == count
    return time.perf_counter() - began, time.process_time() - worked


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_many(folder, options.records)
        time.sleep(2.1)  # files that have just changed are not trusted
        cold = seconds(folder, options.records)
        warm = min(seconds(folder, options.records) for _ in range(3))
        size = (folder / index.FILE).stat().st_size / 1e6
    print(f"{options.records} records, index of {size:.1f} MB")
    print(
        f"cold {cold[0]:.2f} s ({cold[1]:.2f} s), warm {warm[0]:.2f} s ({warm[1]:.2f} s), {cold[1] / warm[1]:.0f} : 1"
    )


if __name__ == "__main__":
    main()
