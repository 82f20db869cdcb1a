"""Weak and strong scaling on real ranks: what a step costs, and which part of it is communication."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import intervals
from allgrad.launch.study.costs import cost_model, disturbance, drawn, measure, target
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.intervals import Estimate
from allgrad.launch.study.result import Figure, Result, Table
from allgrad.launch.study.wording import number, with_interval

GRIDS = {
    "quick": {"steps": {"own": 100, "large": 15}, "blocks": 7},
    "full": {"steps": {"own": 400, "large": 100}, "blocks": 9},
}
LARGE = "mlp:960,960"  # 4 MB of gradients on 64 inputs
STRONG, WEAK = 256, 64  # global batch; batch of a rank
COMPARED_STEPS = 20  # steps whose losses have to agree
SAME = 1e-4  # relative difference up to which losses agree: float32, added up in another order
COLUMNS = [
    "mode", "model", "bytes", "W", "b", "B", "t_data", "t_fwd", "t_bwd", "t_comm_exposed", "t_opt", "t_step",
    "t_step_lo", "t_step_hi", "p90", "ex_per_s", "speedup", "eff", "eff_lo", "eff_hi", "comm", "comm_lo", "comm_hi",
    "karp_flatt", "eff_target", "eff_target_lo", "eff_target_hi", "blocks", "oversubscribed", "loadavg",
]  # fmt: skip
MEANINGS = {
    "mode": "strong: the global batch stays; weak: that of each rank does", "bytes": "bytes of the gradients",
    "t_data": "fetching the examples (s)", "t_fwd": "forward (s)", "t_bwd": "backward (s)",
    "t_comm_exposed": "exchange for which the ranks stand still (s)", "t_opt": "update by the optimizer (s)",
    "t_step": "a step (s): mean of the middle half of a block's steps, geometric mean over the blocks",
    "p90": "90th percentile over all steps (s)", "ex_per_s": "examples a second",
    "speedup": "examples a second over those of one rank", "eff": "efficiency of the ranks: speedup / W",
    "comm": "share of the step that is exposed exchange",
    "karp_flatt": "share of a step on one rank that is serial, if that explains the speedup (Karp and Flatt 1990)",
    "eff_target": "efficiency in time to the target: eff times the examples to it of one rank's batch over those of B",
    "blocks": "blocks of steps that took turns", "oversubscribed": "whether ranks share cores",
    "loadavg": "largest load average, of one minute",
}  # fmt: skip
SPEEDUPS = (
    "Examples a second against ranks, relative to one rank, at a fixed global batch (strong) and at a fixed batch of "
    "each rank (weak); bars are 95 % intervals over {n} blocks of steps, hollow markers where ranks share cores."
)
SHARES = (
    "The parts of a step, means over {n} blocks; exchange is what the ranks stand still for, waiting for each other "
    "included."
)
PARTS = dict(zip(measure.PARTS, ("t_data", "t_fwd", "t_bwd", "t_comm_exposed", "t_opt")))


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, ranks: Sequence[int] | None = None, strong=STRONG, weak=WEAK,
    large: str | None = LARGE, launcher: str | None = None, s_min=None, b_crit=None,
) -> Result:  # fmt: skip
    """Time the steps of the workload's model, and of a large one, on several numbers of ranks.

    ranks         how many, 1 among them; powers of two and all cores, or all ranks of this launch, if None
    strong, weak  the global batch of strong scaling, and the batch of each rank of weak scaling
    large         a second model, "none" for none
    s_min, b_crit steps to the target, S = s_min (1 + b_crit / B), each a number or (number, low, high), for the
                  efficiency in time to target; if None, those that `study steps` has left in the same directory
    """
    grid = GRIDS[preset]
    steps_of = target.given(s_min, b_crit) or target.found(lab.out)
    ranks = sorted({1, *(ranks or counts(lab))})
    if strong < ranks[-1]:
        raise ConfigurationError(
            f"{ranks[-1]} ranks cannot share a batch of {strong}: give --strong {ranks[-1]} or more"
        )
    if lab.comm.size > 1 and ranks[-1] > lab.comm.size:
        raise ConfigurationError(f"this launch has {lab.comm.size} ranks and not {ranks[-1]}: start that many")
    cells = _cells(work, grid["steps"], strong, weak, large)
    asked = {W: [{"kind": "steps", **cell["asked"], "batch": cell["batch"](W)} for cell in cells] for W in ranks}
    blocks = measure.in_turns(lab, asked, grid["blocks"], launcher)
    found = [scaled for k, cell in enumerate(cells) for scaled in _scaled(k, cell, blocks, steps_of)]
    result = summarize(found, _drift(cells, blocks), _disturbed(cells, blocks))
    steps = " or ".join(str(cell["asked"]["steps"]) for cell in cells[::2])
    result.methods = (
        f"{work.name}; SGD; ranks {', '.join(map(str, ranks))}, one BLAS thread each, gradients added up exactly; "
        f"global batch {strong} (strong) and {weak} a rank (weak); {grid['blocks']} blocks in turns, of up to {steps} "
        f"steps after {measure.WARM_UPS} to warm up. A block counts once, by the mean of the middle half of its steps, "
        f"since steps that follow each other are alike; intervals are those of Student's t over the blocks, of "
        f"logarithms, an efficiency being computed within each turn. Blocks were compared by an F test of the medians "
        f"of {disturbance.PARTS} parts of each. Times are in seconds."
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


def _cells(work, steps, strong, weak, large):
    """What is timed on any number of ranks W: the model, and the global batch as a function of W."""
    return [
        {"mode": mode, "asked": {"config": one, "steps": steps[name]}, "batch": batch}
        for name, one in configs(work, large).items()
        for mode, batch in (("strong", lambda W: strong), ("weak", lambda W: weak * W))
    ]


@dataclass
class Scaled:
    """A mode and a model on W ranks: its row of the table, and what of it has an interval."""

    row: dict
    step: Estimate
    eff: Estimate
    comm: Estimate
    eff_target: Estimate | None

    @property
    def counts(self) -> bool:
        return self.row["W"] > 1 and not self.row["oversubscribed"]


def _scaled(k, cell, blocks, steps_of):
    """One for each number of ranks of a cell."""
    alone, found_all = None, []
    for W, found in sorted(blocks.items()):
        of_blocks = [_middle(block["cells"][k]) for block in found]
        seconds = [parts["t_step"] for parts in of_blocks]
        steps = np.concatenate([np.mean(block["cells"][k]["step"], axis=0) for block in found])
        B = cell["batch"](W)
        alone = alone or (seconds, B)
        # Examples a second of W ranks to those of W times one rank; blocks are compared with that of their turn.
        share = B / alone[1] / W
        eff = intervals.paired([share * one for one in alone[0]], seconds, "blocks") if W > 1 else Estimate(1.0)
        step = intervals.mean(seconds, "blocks")
        comm = _share([parts["t_comm_exposed"] / parts["t_step"] for parts in of_blocks])
        towards = _towards_target(eff, alone[1], B, steps_of)
        share_of = {c: float(np.mean([parts[c] / parts["t_step"] for parts in of_blocks])) for c in PARTS.values()}
        row = {
            "mode": cell["mode"], "model": cell["asked"]["config"]["model"], "bytes": found[0]["cells"][k]["bytes"],
            "W": W, "b": math.ceil(B / W), "B": B, **{c: one * step.value for c, one in share_of.items()},
            **drawn.columns("t_step", step), "p90": float(np.quantile(steps, 0.9)), "ex_per_s": B / step.value,
            "speedup": eff.value * W, **drawn.columns("eff", eff), **drawn.columns("comm", comm),
            "karp_flatt": cost_model.karp_flatt(eff.value * W, W) if cell["mode"] == "strong" and W > 1 else None,
            **drawn.columns("eff_target", towards), "blocks": len(found),
            "oversubscribed": any(block["oversubscribed"] for block in found),
            "loadavg": max(block["loadavg"] for block in found),
        }  # fmt: skip
        found_all.append(Scaled(row, step, eff, comm, towards))
    return found_all


def _middle(cell):
    """The parts of a step of a block, and the step: means over the ranks, and over the middle half of the steps."""
    steps = np.mean(cell["step"], axis=0)
    quarter = len(steps) // 4
    middle = np.argsort(steps, kind="stable")[quarter : len(steps) - quarter]
    means = {column: float(np.mean(cell[part], axis=0)[middle].mean()) for part, column in PARTS.items()}
    return {**means, "t_step": float(steps[middle].mean())}


def _share(shares) -> Estimate:
    """The mean of the shares of blocks, with the interval of their odds, which cannot leave 0 to 1."""
    s = np.array(shares)
    plain = intervals.mean(shares, "blocks", log=False)
    if not plain.known or not np.all((s > 0.0) & (s < 1.0)):
        return plain
    odds = intervals.mean((s / (1.0 - s)).tolist(), "blocks")
    errors = odds.error * drawn.student(np.random.default_rng(0), drawn.DRAWS, odds.dof)[:, 0]
    return drawn.drawn(1.0 - 1.0 / (1.0 + odds.value * drawn.exp(errors)))


def _towards_target(eff, B1, B, steps_of) -> Estimate | None:
    """S(B1) t1 / (W S(B) t): what is left of the efficiency once the steps to a target are counted; None if unknown."""
    if B1 == B:
        return eff
    if steps_of is None:
        return None
    examples = float(B1 * steps_of(B1) / (B * steps_of(B)))
    if math.isnan(examples):  # a batch outside of those measured
        return None
    if why := eff.why or steps_of.why or "" if eff.known else "no interval":
        return Estimate(eff.value * examples, why=why)
    rng = np.random.default_rng(0)
    steps = steps_of.drawn(rng, drawn.DRAWS)
    late = np.exp(eff.error * drawn.student(rng, drawn.DRAWS, eff.dof)[:, 0])
    return drawn.drawn(eff.value * late * B1 * steps(B1) / (B * steps(B)))


def _drift(cells, blocks):
    """The largest relative difference between the losses of strong scaling on several ranks and on one."""
    worst = 0.0
    for k, cell in enumerate(cells):
        if cell["mode"] == "strong":
            losses = [found[0]["cells"][k]["losses"][:COMPARED_STEPS] for _, found in sorted(blocks.items())]
            for many in losses[1:]:
                worst = max(worst, *(abs(b / a - 1.0) for a, b in zip(losses[0], many)))
    return worst


def _disturbed(cells, blocks):
    """Why the machine was not quiet; [] if it was."""
    timings = {}
    for k, cell in enumerate(cells):
        for W, found in blocks.items():
            if not any(block["oversubscribed"] for block in found):
                name = f"{cell['mode']}, {cell['asked']['config']['model']}, W = {W}"
                timings[name] = [np.mean(block["cells"][k]["step"], axis=0) for block in found]
    return disturbance.reasons(timings, [min(cell["core"] for cell in block["cells"]) for block in blocks[1]])


# --- what the times say ----------------------------------------------------------------------------------------------


def summarize(found: list[Scaled], drift: float, disturbed: Sequence[str] = ()) -> Result:
    """The result of these cells, of the losses' `drift` between numbers of ranks, and of what disturbed the machine."""
    counted = [one for one in found if one.counts]
    rows = [one.row for one in found]
    notes = [f"The machine was not quiet: {reason}. No verdict rests on these times." for reason in disturbed]
    if any(row["oversubscribed"] for row in rows):
        notes.append(
            "Where ranks share cores (oversubscribed) times say nothing of scaling, and nothing rests on them."
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
    n = rows[0]["blocks"]
    return Result(
        "scaling",
        "How much faster are steps on more ranks, and which part of a step is communication?",
        _headline(counted, disturbed),
        [],
        [Table("scaling", COLUMNS, rows, "Seconds of a step and its parts; bytes of the gradients.", MEANINGS)],
        [
            Figure("scaling", SPEEDUPS.format(n=n), lambda: draw_speedups(rows)),
            Figure("scaling_parts", SHARES.format(n=n), lambda: draw_parts(rows)),
        ],
        _summary(counted),
        [*(_finding(one, disturbed) for one in counted), _same_losses(drift)],
        notes=notes,
    )


def _most(counted):
    """The cells on the most ranks."""
    return [one for one in counted if one.row["W"] == max(other.row["W"] for other in counted)]


def _summary(counted):
    rows = []
    for one in _most(counted):
        rows.append({
            **{key: one.row[key] for key in ("mode", "model", "W", "B")},
            **drawn.columns("t_step", one.step.times(1e3)),
            **drawn.columns("speedup", one.eff.times(one.row["W"])), **drawn.columns("comm", one.comm.times(100.0)),
        })  # fmt: skip
    if not rows:
        return None
    return Table(
        "summary", list(rows[0]), rows, "Steps on the most ranks, with 95 % intervals over blocks.",
        {**MEANINGS, "t_step": "a step (ms)", "comm": "exchange for which the ranks stand still, of the step (%)"},
    )  # fmt: skip


def _finding(one: Scaled, disturbed) -> str:
    row = one.row
    speedup, comm = one.eff.times(row["W"]), one.comm.times(100.0)
    said = (
        f"{row['mode']} scaling of {row['model']} to {row['W']} ranks, B = {row['B']}: {with_interval(speedup)} times "
        f"the examples a second of one rank; exchange is {with_interval(comm)} % of the step"
    )
    if one.eff_target is not None and row["mode"] == "weak":
        said += f"; in time to the target {with_interval(one.eff_target.times(row['W']))} times as fast as one rank"
    if disturbed or not speedup.known:
        return f"{said}. No verdict."
    if speedup.low > 1.0:
        judged = "more ranks are faster"
    else:
        judged = "more ranks are slower" if speedup.high < 1.0 else "not told apart from one rank"
    if one.eff.low > 1.0:
        judged += (
            f"; more than {row['W']} times, which caches explain: a rank has {row['b']} examples and not {row['B']}"
        )
    return f"{said}: {judged}."


def _same_losses(drift):
    said = "differ by less than" if drift <= SAME else "DIFFER by more than"
    return (
        f"The losses of the first {COMPARED_STEPS} steps of one global batch {said} {SAME:g} between numbers of ranks "
        f"(largest relative difference {number(drift, 2)})."
    )


def _headline(counted, disturbed):
    if not counted:
        return "Only one rank could be timed with a core of its own: there is nothing to say about scaling here."
    words = []
    for mode in ("strong", "weak"):
        for one in [one for one in _most(counted) if one.row["mode"] == mode][:1]:
            W = one.row["W"]
            words.append(
                f"{mode} scaling {with_interval(one.eff.times(W))} times at W = {W}, "
                f"{with_interval(one.comm.times(100.0))} % of the step is exposed communication"
            )
    said = f"{'; '.join(words)}."
    if disturbed:
        return f"No verdict, since the machine was not quiet ({'; '.join(disturbed)}): {said}"
    return said[0].upper() + said[1:]


# --- figures ---------------------------------------------------------------------------------------------------------


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
            [row["eff_lo"] * row["W"] for row in some],
            [row["eff_hi"] * row["W"] for row in some],
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
