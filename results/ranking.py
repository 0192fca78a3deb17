"""`python -m results rank`: mean ranks of checkpoints over tasks, with their intervals."""

from __future__ import annotations

from results.model import Tables
from results.statistics import RANKED_ROWS, RANKED_SHARE, Ranking, Values, rank


def of_tables(tables: Tables) -> Ranking[str]:
    """The ranking by the first column of every task, of the competitors of all blocks; one engine and recipe a task."""
    tasks: dict[str, dict[str, Values]] = {}
    for block in tables.blocks:
        for place, head in enumerate(block.columns):
            if not head.first:
                continue
            name = " ".join(word for word in (head.task, block.engine, head.data_id[:4], head.metric) if word)
            rows = {row.name: row.cells[place].values for row in block.of("competitor") if row.cells[place].n > 1}
            if len(rows) > 1:
                tasks.setdefault(name, rows)
    return rank(tasks)


def text(ranking: Ranking[str]) -> str:
    """For a terminal."""
    if not ranking.rows:
        share = f"{RANKED_SHARE:.0%}".replace("%", " %")
        return (
            f"No ranking: it takes {RANKED_ROWS} checkpoints that compete (baselines do not), each with two or more "
            f"seeds in {share} of the tasks, and a task that all of them have.\n"
        )
    size = max(len("checkpoint"), *(len(row.row) for row in ranking.rows))
    lines = [
        f"Mean rank over {len(ranking.tasks)} task{'' if len(ranking.tasks) == 1 else 's'}; 1 is best",
        "",
        f"{'checkpoint':<{size}}  rank  95 %, seeds   95 %, seeds and tasks",
    ]
    for row in ranking.rows:
        seeds, both = f"{row.low:4.1f} to {row.high:4.1f}", f"{row.wide_low:4.1f} to {row.wide_high:4.1f}"
        lines.append(f"{row.row:<{size}}  {row.mean:4.1f}  {seeds}   {both}")
    lines += ["", f"tasks: {', '.join(ranking.tasks)}"]
    if ranking.left_out:
        lines.append(f"not ranked, too few tasks: {', '.join(ranking.left_out)}")
    lines.append(
        "Ranks whose intervals overlap are not told apart. Not covered: other pretraining runs, other test images."
    )
    return "\n".join(lines) + "\n"
