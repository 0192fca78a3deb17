"""What stands behind a cell of the report: how its runs were made, without the paths of the machine that made them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from results.export import command_without_machine, shortened
from results.frame import METRIC, metrics_of

# What a difference from the protocol is about: the first group whose pattern its name has. The rest is "other".
GROUPS = {
    "data": r"^data$|images|box|regions|classes|split",
    "model": r"architecture|neck|norm|channels|resolution|anchor|convs|head|precise_bn|weights",
    "input": r"size|crop|resize|view|flip|smallest|augment",
    "training": r"iterations|epochs|steps|batch|lrs?$|weight_decay|momentum|warmup|overfit|form|seed",
}


class Shared:
    """Values that many runs have in common, each once. `place` gives a value's number."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Of an equal value, or of this one, appended."""
        key = json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(value)
        return self._places[key]


def grouped(differences: Iterable[tuple[str, str, str]]) -> list[list[Any]]:
    """Differences from a protocol by what they are about: [group, [[what, protocol's, run's], …]] each."""
    found: dict[str, list[list[str]]] = {name: [] for name in (*GROUPS, "other")}
    for what, protocol, run in differences:
        leaf = what.rpartition(".")[2]
        group = next((name for name, pattern in GROUPS.items() if re.search(pattern, leaf)), "other")
        found[group].append([leaf.replace("_", " "), protocol, run])
    return [[name, each] for name, each in found.items() if each]


def proof(verification: Mapping[str, Any], proven: bool) -> str:
    """What the record says on the weights' arrival, in words."""
    if not proven:
        return "no proof in the record"
    largest = max(verification["stage_error"].values())
    return f"{verification['tensors']} of {verification['expected']} tensors; stages differ by {largest:.0e} at most"


def runs(frame: pd.DataFrame, wanted: Iterable[str]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """Runs as plain values, and what they share.

    Args:
        frame: of `results.load`.
        wanted: run ids, in the order of the result.

    Returns:
        A dictionary a run; those of its keys that the second result has hold places in the lists there.
    """
    names = ("command", "differences", "versions", "weights", "data", "code")
    shared = {name: Shared() for name in names}
    columns = [METRIC + name for name in metrics_of(frame)]
    found = []
    for row in frame.set_index("id", drop=False).loc[list(wanted)].to_dict("records"):
        values: dict[str, Any] = {
            "command": command_without_machine(row["command"]),
            "differences": [row["protocol"], shortened(grouped(row["differences"]))],
            "versions": dict(row["versions"]),
            "weights": {
                "file": str(row["checkpoint"]).rpartition("/")[2],
                "sha256": row["sha256"],
                "network": ", ".join(word for word in (row["format"], row["branch"], row["arch"]) if word),
                "arrived": shortened(proof(row["verification"], row["proven"])),
            },
            "data": {split: _images(fingerprint) for split, fingerprint in row["data"].items()},
            "code": {
                "task": f"{row['task']}, version {row['task_version']}",
                "commit": row["commit"][:12] + (", changed since" if row["dirty"] else ""),
                "device": shortened(row["device"]),
                "conditions": ", ".join(f"{name} {value}" for name, value in row["conditions"].items())
                or "not recorded",
            },
        }
        found.append(
            {
                "id": row["id"],
                "seed": row["seed"],
                "reason": shortened(row["reason"]),
                "metrics": {
                    name.removeprefix(METRIC): round(row[name], 3) for name in columns if not pd.isna(row[name])
                },
                "notes": shortened(list(row["notes"])),
                "seconds": round(row["seconds"]),
                "ended": "" if pd.isna(row["utc"]) else f"{row['utc']:%Y-%m-%d %H:%M} UTC",
                **{name: shared[name].place(value) for name, value in values.items()},
            }
        )
    return found, {name: each.items for name, each in shared.items()}


def _images(fingerprint: Mapping[str, Any]) -> str:
    count = f", {fingerprint['images']} images" if "images" in fingerprint else ""
    return f"{shortened(str(fingerprint['name']))}{count}, sha256 {str(fingerprint['sha256'])[:12]}"
