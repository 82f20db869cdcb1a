"""Time to a target on up to thousands of ranks, from what a few ranks, or one and the name of a network, tell."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from allgrad.autograd.arena import arena_of
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import intervals, workload
from allgrad.launch.study.costs import calibrate, cost_model, disturbance, drawn, measure, projection, replay, target
from allgrad.launch.study.costs.calibrate import Compute, Line, Timed
from allgrad.launch.study.costs.drawn import DRAWS, BlockErrors
from allgrad.launch.study.costs.projection import Model, Uncertain
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.experiments import scaling
from allgrad.launch.study.experiments.project import findings
from allgrad.launch.study.result import Result, Table

GRIDS = {
    "quick": {"blocks": 7, "steps": {"own": 50, "large": 8}, "sizes": "quick"},
    "full": {"blocks": 9, "steps": {"own": 200, "large": 50}, "sizes": "full"},
}
BATCHES = {"own": (8, 32, 64, 128, 256), "large": (16, 64, 128)}  # of one rank
CHECKED = {"own": (32, 128), "large": (64,)}  # at which steps on several ranks are predicted


@dataclass
class Measured:
    """What was measured on this machine.

    timed           of each model, "own" and "large", what its costs are computed from
    lines           for each number of ranks the lines through the least and median times of its all-reduces
    steps           {(model, W, b): median seconds of a step in each block}
    bytes           of each model's gradients
    oversubscribed  numbers of ranks that share cores, and are left out
    disturbed       why the machine was not quiet; [] if it was
    """

    timed: dict[str, Timed]
    lines: dict[tuple[int, str], Line]
    steps: dict[tuple[str, int, int], list[float]]
    bytes: dict[str, int]
    oversubscribed: list[int]
    disturbed: list[str]


@dataclass
class Projected:
    """The model of the time to a target, what it rests on, and words for it.

    validation  rows: steps on several ranks as predicted, beside what was measured
    recording   of one backward pass; None where nothing was measured
    """

    model: Uncertain
    found: Measured | None
    recording: Any
    validation: list[dict]
    methods: str

    @property
    def disturbed(self) -> list[str]:
        return self.found.disturbed if self.found else []


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, net: str | None = None, compute: tuple[float, float] | None = None,
    size: int | None = None, s_min=None, b_crit=None, optimizers=("sgd",), algorithm="best", max_ranks=4096,
    launcher: str | None = None,
) -> Result:  # fmt: skip
    """Project the time to a target to powers of two of ranks, at most `max_ranks`.

    The other options are those of `projected`.
    """
    (optimizer,) = optimizers
    found = projected(
        lab, work, preset, net=net, compute=compute, size=size, s_min=s_min, b_crit=b_crit, optimizer=optimizer,
        algorithm=algorithm, max_ranks=max_ranks, launcher=launcher,
    )  # fmt: skip
    rows = [projection.row(found.model, W, found.recording) for W in found.model.ranks(max_ranks)]
    result = Result(
        "project",
        f"How soon would the target be reached on up to {rows[-1]['W']:,} ranks, and what stops it from being sooner?",
        findings.headline(found, rows),
        [],
        [Table("projection", projection.COLUMNS, rows, findings.CAPTION, findings.MEANINGS)],
        findings.pictures(found, rows),
        findings.summary(found, rows),
        findings.findings(found, rows),
    )
    if found.found:
        result.tables += findings.calibration_tables(found.found, found.validation)
    result.methods = found.methods
    result.notes = findings.notes(work, found, rows, rows[-1]["W"], max_ranks)
    return result


def projected(
    lab, work, preset, *, net, compute, size, s_min, b_crit, optimizer, algorithm, max_ranks, launcher
) -> Projected:
    """Measure what is not given, and make the model of it.

    net            a name or custom:A,B[,C], see `cost_model.network`; measured on ranks of this machine if None
    compute        (c0, d): seconds of a step that do not, and that do depend on the examples; measured if None
    size           bytes of the gradients; those of the model if None
    s_min, b_crit  steps to the target, S = s_min (1 + b_crit / B), each a number or (number, low, high); if None, those
                   of `study steps` with the optimizer
    algorithm      of the all-reduce: one of cost_model.ALGORITHMS, or the best of them for each number of ranks
    """
    if compute is not None and not (len(compute) == 2 and 0.0 <= compute[0] < math.inf and 0.0 < compute[1] < math.inf):
        raise ConfigurationError(f"compute is c0, d in seconds a step and an example, d above 0, got {compute}")
    given = None if net is None else cost_model.network(net)
    cost_model.all_reduce(algorithm, 2, 1, given or cost_model.Network("", 0.0, 0.0))
    steps = _steps_to_target(lab, work, preset, s_min, b_crit, optimizer)
    found = recording = None
    if given is None or compute is None:
        found = measured(lab, work, GRIDS[preset], launcher, network=given is None)
        recording = _recorded(work)
    nbytes: int = size or (found.bytes["own"] if found else arena_of(work.build()).message.nbytes)
    model = _uncertain(given, compute, found, nbytes, steps, algorithm, [1 << k for k in range(max_ranks.bit_length())])
    own, network, blocks = model.at.compute, model.at.net, found.timed["own"].blocks if found else 0
    crowded = f", {own.crowding:.2f} times that with all at work"
    drawn_from = (
        f"{DRAWS:,} draws of the steps to target, with the errors that study steps reports and the correlation that a "
        f"fit to its batches has"
    )
    if found:
        drawn_from += f", and of all that was timed, by Student's t over the {blocks} blocks and by the misfit of lines"
    methods = (
        f"{work.name}; {nbytes:,} bytes of gradients; {steps.words}; a step takes {own.line.a * 1e6:.4g} us + "
        f"{own.line.b * 1e6:.4g} us b on a rank with b examples "
        f"({'given' if compute else f'measured on one rank{crowded}'}), as long as on the slowest rank, and an "
        f"all-reduce after backward; network {network.name}: alpha = {network.A * 1e6:.4g} us a message, "
        f"beta = {network.B * 1e9:.4g} ns a byte sent, gamma = {network.C * 1e9:.4g} ns a byte added "
        f"({network.basis}); algorithm of the all-reduce: {algorithm}. Times are medians of {drawn_from}; intervals "
        f"hold the middle 95 % of the draws."
    )
    validation = _validation(found) if found and given is None else []
    return Projected(model, found, recording, validation, methods)


def _uncertain(given, compute, found, nbytes, steps, algorithm, ranks) -> Uncertain:
    """The model at its best estimates, and with draws."""
    rng = np.random.default_rng(0)
    own = own_drawn = Compute(Line(*(compute or (0.0, 0.0)), x=(), t=(), errors=()), (1.0,))
    network, network_drawn, lacks, seen = given, given, [], 1
    if found is not None:
        timed, seen = found.timed["own"], max(W for _, W, _ in found.steps)
        errors = BlockErrors(rng, timed.blocks)
        if compute is None:
            own, own_drawn = timed.compute, timed.drawn_compute(errors, rng, ranks)
        if given is None:
            network, network_drawn = timed.network(), timed.drawn_network(errors, rng)
    lacks += ["the compute, which was given"] if compute else []
    lacks += [f"the network {given.name}, which was named"] if given else []
    at = Model(network, algorithm, own, nbytes, steps)
    return Uncertain(
        at, Model(network_drawn, algorithm, own_drawn, nbytes, steps.drawn(rng, DRAWS)), seen, tuple(lacks)
    )


# --- measured ------------------------------------------------------------------------------------------------------


def measured(lab, work, grid, launcher, network) -> Measured:
    """Time compute on one rank, and on more of them all-reduces, compute without exchange, and steps to predict."""
    ranks = [W for W in scaling.counts(lab) if W == 1 or network]
    if network and len(ranks) == 1:
        raise ConfigurationError(
            f"one core, or one rank, has no network to measure: name one by --net, {cost_model.FORMS}"
        )
    configs = scaling.configs(work, scaling.LARGE if network else None)
    limit = len(work.loaded.train_x)
    alone = [(m, b) for m in configs for b in BATCHES[m] if b <= limit] or [("own", limit)]
    many = [(m, b) for m in configs for b in CHECKED[m] if (m, b) in alone]
    sizes, repeats = calibrate.ALL_REDUCE_BYTES[grid["sizes"]], calibrate.REPEATS[grid["sizes"]]

    def step(kind, m, b, W):
        return {"kind": kind, "config": configs[m], "batch": b * W, "steps": grid["steps"][m]}

    asked = {
        1: [step("steps", m, b, 1) for m, b in alone] + [{"kind": "add", "size": calibrate.ADDED_BYTES, "repeats": 50}]
    }
    for W in ranks[1:]:
        asked[W] = [step("alone", m, b, 1) for m, b in many] + [step("steps", m, b, W) for m, b in many]
        asked[W].append({"kind": "all-reduce", "sizes": sizes, "repeats": repeats})
    blocks = measure.in_turns(lab, asked, grid["blocks"], launcher)
    return gathered(blocks, alone, many, sizes)


def gathered(blocks, alone, many, sizes) -> Measured:
    """What the answers of `measure` to `measured` say."""
    crowded = [W for W, found in blocks.items() if any(block["oversubscribed"] for block in found)]
    ranks = [W for W in blocks if W > 1 and W not in crowded]
    if len(blocks) > 1 and not ranks:
        raise ConfigurationError("all ranks but one share cores here, and their times say nothing: name a --net")
    single = {key: [np.ravel(block["cells"][k]["step"]) for block in blocks[1]] for k, key in enumerate(alone)}
    timings = {f"{m} model, b = {b}": found for (m, b), found in single.items()}
    steps = {(m, 1, b): [float(np.median(s)) for s in found] for (m, b), found in single.items()}
    together, lines, reduced = {}, {}, {}
    for W in ranks:
        for k, (m, b) in enumerate(many):
            found = [np.mean(block["cells"][len(many) + k]["step"], axis=0) for block in blocks[W]]
            timings[f"{m} model, b = {b} on {W} ranks"] = found
            steps[m, W, b] = [float(np.median(one)) for one in found]
            if max(ranks) == W:
                together[m, b] = [np.ravel(block["cells"][k]["step"]) for block in blocks[W]]
        seconds = np.array([block["cells"][-1]["seconds"] for block in blocks[W]])  # (blocks, sizes, repeats)
        reduced[W] = sizes, np.median(seconds, axis=2)
        every = np.concatenate(seconds, axis=1)
        lines[W, "median"] = calibrate.line(sizes, calibrate.over_blocks(reduced[W][1]))
        lines[W, "least"] = calibrate.line(sizes, np.min(every, axis=1))
    added = [np.median(block["cells"][-1]["seconds"]) / block["cells"][-1]["size"] for block in blocks[1]]
    timed, size = {}, {}
    for m in dict.fromkeys(m for m, _ in alone):
        batches = [b for one, b in alone if one == m]
        crowds = [[np.median(a) / np.median(s) for a, s in zip(together[m, b], single[m, b])] for b in batches
                  if (m, b) in together]  # fmt: skip
        work = {key: found for key, found in (together or single).items() if key[0] == m} or single
        relative = [np.concatenate([found[i] / np.median(found[i]) for found in work.values()])
                    for i in range(len(blocks[1]))]  # fmt: skip
        of_batch = np.transpose([steps[m, 1, b] for b in batches])
        crowding = calibrate.over_blocks(crowds) if crowds else ()
        timed[m] = Timed(batches, of_batch, crowding, relative, reduced, added)
        size[m] = blocks[1][0]["cells"][alone.index((m, batches[0]))]["bytes"]
    cores = [min(cell["core"] for cell in block["cells"] if "core" in cell) for block in blocks[1]]
    return Measured(timed, lines, steps, size, crowded, disturbance.reasons(timings, cores))


def _recorded(work):
    config = {**work.config(), "seed": 0}
    data, model = workload.load(config), workload.build(config)
    loss, _ = workload.objective(config, model, data)
    b = min(64, len(data.train_x))
    return replay.record(model, loss, (data.train_x[:b], data.train_y[:b]))


def _steps_to_target(lab, work, preset, s_min, b_crit, optimizer) -> target.Target:
    """Steps as given, as tables in the directory say, or from `study steps`, whose runs may be known."""
    if found := target.given(s_min, b_crit):
        return found
    found = target.found(lab.out, optimizer)
    if found is None:
        if not work.is_default:
            raise ConfigurationError(
                f"{lab.out} has no fit of the steps to a target with {optimizer}: run allgrad study steps into it "
                f"before, or give --s-min and --b-crit"
            )
        from allgrad.launch.study.experiments import steps

        tables = steps.run(lab, work, preset, optimizers=(optimizer,)).tables
        found = target.of_rows(tables[1].rows, tables[0].rows, optimizer)
    if found is None or (isinstance(found, target.Hyperbola) and not (found.s_min > 0.0 and found.b_crit < math.inf)):
        raise ConfigurationError(
            f"the steps to target of {optimizer} do not bend with the batch size, and cannot be projected: "
            f"give --s-min and --b-crit"
        )
    return found


# --- what is compared ------------------------------------------------------------------------------------------------


def _validation(found: Measured) -> list[dict]:
    """Steps on several ranks, predicted from one rank and calibration, beside what was measured."""
    rows = []
    for (m, W, b), blocks in found.steps.items():
        if W == 1:
            continue
        timed, n = found.timed[m], found.bytes[m]
        algorithm, late = calibrate.exact(W, n), timed.compute.slowest_median(W)
        others = [p for p in timed.reduced if p != W]
        exchange = cost_model.all_reduce(algorithm, W, n, timed.network(without=W))
        predicted, seen = late * timed.compute(b) + exchange, intervals.mean(blocks, "blocks")
        rng = np.random.default_rng(0)
        errors = BlockErrors(rng, timed.blocks)
        modelled = late * timed.drawn_compute(errors, rng)(b) + cost_model.all_reduce(
            algorithm, W, n, timed.drawn_network(errors, rng, without=W)
        )
        of_blocks = drawn.exp(errors(np.log(blocks)[:, None])[:, 0])
        ratio = drawn.drawn(modelled / (seen.value * of_blocks), "" if timed.blocks > 1 else "1 block")
        rows.append({
            "W": W, "model": m, "b": b, "B": W * b, "t_predicted": predicted, "t_exchange": exchange,
            "t_uncrowded": late * timed.compute.line(b) + exchange, **drawn.columns("t_measured", seen),
            **drawn.columns("ratio", ratio), "network_from": " ".join(map(str, others or [W])), "estimate": ratio,
        })  # fmt: skip
    return rows
