"""Weak and strong scaling on real ranks: what a step costs, and which part of it is communication."""

import csv
import math
from collections.abc import Sequence

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.costs import cost_model, measure
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.result import Check, Figure, Result, Table

GRIDS = {
    "quick": {"steps": {"own": 200, "large": 30}, "blocks": 3},
    "full": {"steps": {"own": 400, "large": 100}, "blocks": 7},
}
LARGE = "mlp:960,960"  # 4 MB of gradients on 64 inputs
STRONG, WEAK = 256, 64  # global batch; batch of a rank
COMPARED_STEPS = 20  # steps whose losses have to agree
COLUMNS = [
    "mode", "model", "bytes", "W", "b", "B", "t_data", "t_fwd", "t_bwd", "t_comm_exposed", "t_opt", "t_step",
    "t_step_median", "p90", "ex_per_s", "speedup", "eff", "eff_low", "eff_high", "karp_flatt", "eff_target",
    "oversubscribed", "loadavg",
]  # fmt: skip
MEANINGS = {
    "mode": "strong: the global batch stays; weak: that of each rank does", "bytes": "bytes of the gradients",
    "t_data": "fetching the examples (s)", "t_fwd": "forward (s)", "t_bwd": "backward (s)",
    "t_comm_exposed": "exchange for which the ranks stand still (s)", "t_opt": "update by the optimizer (s)",
    "t_step": "fastest step of the middle block (s)", "t_step_median": "median over all steps (s)",
    "p90": "90th percentile over all steps (s)", "ex_per_s": "examples a second of the fastest step",
    "speedup": "examples a second over those of one rank", "eff": "efficiency of the ranks: speedup / W",
    "eff_low": "least eff of the blocks", "eff_high": "largest eff of the blocks",
    "karp_flatt": "share of a step on one rank that is serial, if that explains the speedup (Karp and Flatt 1990)",
    "eff_target": "efficiency in time to the target: eff times the examples to it of one rank's batch over those of B",
    "oversubscribed": "whether ranks share cores", "loadavg": "largest load average, of one minute",
}  # fmt: skip
SPEEDUPS = (
    "Examples a second against ranks, relative to one rank, at a fixed global batch (strong) and at a fixed batch of "
    "each rank (weak); bars from the least to the largest of the blocks, hollow markers where ranks share cores."
)
SHARES = "The parts of the fastest step; exchange is what the ranks stand still for, waiting for each other included."
PARTS = dict(zip(measure.PARTS, ("t_data", "t_fwd", "t_bwd", "t_comm_exposed", "t_opt")))


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, ranks: Sequence[int] | None = None, strong=STRONG, weak=WEAK,
    large: str | None = LARGE, launcher: str | None = None, s_min: float | None = None, b_crit: float | None = None,
) -> Result:  # fmt: skip
    """Time the steps of the workload's model, and of a large one, on several numbers of ranks.

    ranks         how many, 1 among them; powers of two and all cores, or all ranks of this launch, if None
    strong, weak  the global batch of strong scaling, and the batch of each rank of weak scaling
    large         a second model, "none" for none
    s_min, b_crit steps to the target, S = s_min (1 + b_crit / B), for the efficiency in time to target; if None, those
                  that `study steps` has left in the same directory
    """
    grid = GRIDS[preset]
    fit = fit_given(s_min, b_crit) or fit_found(lab)
    ranks = sorted({1, *(ranks or counts(lab))})
    if strong < ranks[-1]:
        raise ConfigurationError(
            f"{ranks[-1]} ranks cannot share a batch of {strong}: give --strong {ranks[-1]} or more"
        )
    if lab.comm.size > 1 and ranks[-1] > lab.comm.size:
        raise ConfigurationError(f"this launch has {lab.comm.size} ranks and not {ranks[-1]}: start that many")
    cells = _cells(work, grid["steps"], strong, weak, large)
    blocks = {W: [] for W in ranks}
    for _ in range(grid["blocks"]):  # the numbers of ranks take turns, as the machine is not always equally fast
        for W in ranks:
            asked = [{"kind": "steps", **cell["asked"], "batch": cell["batch"](W)} for cell in cells]
            blocks[W].append(measure.times(lab, W, asked, launcher))
    rows = [row for k, cell in enumerate(cells) for row in _rows(k, cell, blocks, fit)]
    result = summarised(rows, _drift(cells, blocks))
    steps = " or ".join(str(cell["asked"]["steps"]) for cell in cells[::2])
    result.methods = (
        f"{work.name}; SGD; ranks {', '.join(map(str, ranks))}, one BLAS thread each, gradients added up exactly; "
        f"global batch {strong} (strong) and {weak} a rank (weak); {grid['blocks']} blocks in turns, of {steps} steps "
        f"after {measure.WARM_UPS} to warm up. Of each block the fastest step counts, and of the blocks the middle "
        f"one. Times are in seconds."
    )
    return result


def counts(lab) -> list[int]:
    """Powers of two up to the cores of this machine, or to the ranks of this launch, and that number itself."""
    most = lab.comm.size if lab.comm.size > 1 else measure.cores()
    return sorted({1 << k for k in range(most.bit_length())} | {most})


def configs(work, large: str | None) -> dict[str, dict]:
    """Configurations of the workload with its own model, and with a large one where the data are not text."""
    found = {"own": work.config()}
    if large not in (None, "none") and work.objective is None and work.loaded.vocabulary is None:
        found["large"] = {**found["own"], "model": large, "model_sha256": None}
    return found


def fit_given(s_min, b_crit) -> tuple[float, float] | None:
    """The two numbers of a hyperbola, None if neither is given."""
    if s_min is None and b_crit is None:
        return None
    if s_min is None or b_crit is None:
        raise ConfigurationError("--s-min and --b-crit are the two numbers of one hyperbola: give both or none")
    if not (0.0 < s_min < math.inf and 0.0 <= b_crit < math.inf):
        raise ConfigurationError(f"--s-min is above 0 and --b-crit at least 0, got {s_min} and {b_crit}")
    return s_min, b_crit


def fit_found(lab, optimizer="sgd") -> tuple[float, float] | None:
    """(S_min, B_crit) that `study steps` has written into the directory; None if it has not."""
    path = lab.out / "steps_fit.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return hyperbola(csv.DictReader(file), optimizer)


def hyperbola(rows, optimizer) -> tuple[float, float] | None:
    """(S_min, B_crit) of an optimizer, from the rows of the fits of `study steps`."""
    return next(((float(r["S_min"]), float(r["B_crit"])) for r in rows if r["optimizer"] == optimizer), None)


def _cells(work, steps, strong, weak, large):
    """What is timed on any number of ranks W: the model, and the global batch as a function of W."""
    return [
        {"mode": mode, "asked": {"config": one, "steps": steps[name]}, "batch": batch}
        for name, one in configs(work, large).items()
        for mode, batch in (("strong", lambda W: strong), ("weak", lambda W: weak * W))
    ]


def _rows(k, cell, blocks, fit):
    """One row for each number of ranks of a cell."""
    alone, rows = None, []
    for W, found in sorted(blocks.items()):
        fastest = [_fastest(block["cells"][k]) for block in found]
        steps = np.concatenate([np.mean(block["cells"][k]["step"], axis=0) for block in found])
        B = cell["batch"](W)
        middle = sorted(fastest, key=lambda parts: parts["t_step"])[(len(fastest) - 1) // 2]
        alone = alone or (fastest, B, middle["t_step"])
        # Examples a second of W ranks to those of W times one rank; blocks are compared with that of their turn.
        share = B / alone[1] / W
        each = [share * one["t_step"] / many["t_step"] for one, many in zip(alone[0], fastest)]
        eff = share * alone[2] / middle["t_step"]
        strong = cell["mode"] == "strong" and W > 1
        rows.append({
            "mode": cell["mode"], "model": cell["asked"]["config"]["model"], "bytes": found[0]["cells"][k]["bytes"],
            "W": W, "b": math.ceil(B / W), "B": B, **middle, "t_step_median": float(np.median(steps)),
            "p90": float(np.quantile(steps, 0.9)), "ex_per_s": B / middle["t_step"], "speedup": eff * W, "eff": eff,
            "eff_low": min(each), "eff_high": max(each),
            "karp_flatt": cost_model.karp_flatt(eff * W, W) if strong else None,
            "eff_target": _towards_target(eff, alone[1], B, fit),
            "oversubscribed": any(block["oversubscribed"] for block in found),
            "loadavg": max(block["loadavg"] for block in found),
        })  # fmt: skip
    return rows


def _fastest(cell):
    """The parts of the fastest step of a block: means over the ranks, which a step keeps together."""
    steps = np.mean(cell["step"], axis=0)
    best = int(steps.argmin())
    means = {column: float(np.mean(cell[part], axis=0)[best]) for part, column in PARTS.items()}
    return {**means, "t_step": float(steps[best])}


def _towards_target(eff, B1, B, fit):
    """S(B1) t1 / (W S(B) t): what is left of the efficiency once the steps to a target are counted."""
    if fit is None:
        return eff if B1 == B else None
    s_min, b_crit = fit
    if math.isinf(b_crit):  # the steps fall as 1/B: every batch takes the same examples
        return eff
    examples = [s_min * (batch + b_crit) for batch in (B1, B)]
    return eff * examples[0] / examples[1]


def _drift(cells, blocks):
    """The largest relative difference between the losses of strong scaling on several ranks and on one."""
    worst = 0.0
    for k, cell in enumerate(cells):
        if cell["mode"] == "strong":
            losses = [found[0]["cells"][k]["losses"][:COMPARED_STEPS] for _, found in sorted(blocks.items())]
            for many in losses[1:]:
                worst = max(worst, *(abs(b / a - 1.0) for a, b in zip(losses[0], many)))
    return worst


def summarised(rows, drift: float) -> Result:
    """The result of these rows, COLUMNS as keys, and of the `drift` of the losses of several ranks."""
    parts = [abs(sum(row[c] for c in PARTS.values()) / row["t_step"] - 1.0) for row in rows]
    counted = [row for row in rows if row["W"] > 1 and not row["oversubscribed"]]
    checks = [
        _exactly("The parts of a step add up to the step, within 10 %", max(parts), most=0.1),
        _exactly(
            f"Any number of ranks sees the losses of one rank, within 1e-4, for {COMPARED_STEPS} steps of one global "
            "batch",
            drift, most=1e-4,
        ),
    ]  # fmt: skip
    for row in counted:
        what = f"{row['mode']} scaling of {row['model']} to {row['W']} ranks"
        checks.append(
            Check(f"Efficiency of {what} is not above 1.1", row["eff"], row["eff_low"], row["eff_high"], most=1.1)
        )
    notes = [
        f"Efficiency of {row['mode']} scaling of {row['model']} to {row['W']} ranks is {row['eff']:.2f}: with "
        f"{row['b']} examples a rank instead of {row['B']}, more of what a step touches stays in a core's cache."
        for row in counted
        if row["eff"] > 1.1 and row["mode"] == "strong"
    ]
    if any(row["oversubscribed"] for row in rows):
        notes.append(
            "Where ranks share cores (oversubscribed) times say nothing of scaling, and no claim rests on them."
        )
    if all(row["eff_target"] is None for row in rows if row["mode"] == "weak" and row["W"] > 1):
        notes.append(
            "Weak scaling keeps the examples a second and grows the batch; whether that reaches a target sooner "
            "(eff_target) needs the fit of study steps in the same directory."
        )
    notes.append(
        "Accumulation (several shards a rank) emulates a batch without speeding anything, and is not measured."
    )
    notes.append(f"The load average was up to {max(row['loadavg'] for row in rows):.1f}, these ranks included.")
    return Result(
        "scaling",
        "How much faster are steps on more ranks, and which part of a step is communication?",
        _headline(counted),
        checks,
        [Table("scaling", COLUMNS, rows, "Seconds of a step and its parts; bytes of the gradients.", MEANINGS)],
        [
            Figure("scaling", SPEEDUPS, lambda: draw_speedups(rows)),
            Figure("scaling_parts", SHARES, lambda: draw_parts(rows)),
        ],
        notes=notes,
    )


def _exactly(claim, value, **accepted):
    return Check(claim, value, value, value, **accepted)


def _headline(counted):
    if not counted:
        return "Only one rank could be timed with a core of its own: there is nothing to say about scaling here."
    words = []
    for mode in ("strong", "weak"):
        rows = [row for row in counted if row["mode"] == mode]
        most = [row for row in rows if row["W"] == max(r["W"] for r in rows)]
        for row in most[:1]:
            share = row["t_comm_exposed"] / row["t_step"]
            toward = ""
            if mode == "weak" and row["eff_target"] is not None:
                toward = f", {row['eff_target']:.0%} in time to target"
            speed = f"{mode} {row['speedup']:.2f}x at W={row['W']} ({row['eff']:.0%}{toward})"
            words.append(f"{speed}, {share:.0%} of the step is exposed communication")
    return "; ".join(words) + "."


def draw_speedups(rows):
    """Examples a second against ranks, relative to one rank."""
    from allgrad.launch.study import figures

    figure, axes = figures.new()
    for i, (mode, model) in enumerate(dict.fromkeys((row["mode"], row["model"]) for row in rows)):
        some = [row for row in rows if (row["mode"], row["model"]) == (mode, model)]
        figures.points_with_interval(
            axes,
            [row["W"] for row in some],
            [row["speedup"] for row in some],
            [row["eff_low"] * row["W"] for row in some],
            [row["eff_high"] * row["W"] for row in some],
            i,
            f"{mode}, {model}",
            join=True,
            hollow=[row["oversubscribed"] for row in some],
        )
    figures.batches(axes.xaxis)
    figures.logarithmic(axes.yaxis)
    axes.set(xlabel="ranks W", ylabel="speedup")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8), max(high, 1.2 * max(row["W"] for row in rows)))
    figures.guide(axes, 1, (1, 1), "ideal", at=0.6)
    figures.legend(figure)
    return figure


def draw_parts(rows):
    """What each step consists of."""
    from allgrad.launch.study import figures

    figure, axes = figures.new(height=0.9 + 0.2 * len(rows))
    labels = [f"{row['mode']}, {row['model']}, W={row['W']}" for row in rows]
    base = np.zeros(len(rows))
    for i, (part, column) in enumerate(PARTS.items()):
        shares = np.array([row[column] / row["t_step"] for row in rows])
        hatch = ("", "//", "..", "xx", "--")[i]
        axes.barh(labels, shares, left=base, color=figures.COLORS[i], hatch=hatch, edgecolor="white", label=part)
        base += shares
    axes.invert_yaxis()
    axes.set(xlabel="share of the step", xlim=(0, 1))
    axes.grid(False)
    figures.legend(figure, 3)
    return figure
