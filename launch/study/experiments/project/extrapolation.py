"""Time to a target on up to thousands of ranks, from what a few ranks, or one and the name of a network, tell."""

import math
from dataclasses import dataclass

import numpy as np

from allgrad.autograd.arena import arena_of
from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study import workload
from allgrad.launch.study.costs import calibrate, cost_model, measure, projection, replay
from allgrad.launch.study.costs.calibrate import Compute, Line
from allgrad.launch.study.costs.cost_model import Network
from allgrad.launch.study.experiment import experiment
from allgrad.launch.study.experiments import scaling
from allgrad.launch.study.experiments.project import findings
from allgrad.launch.study.result import Result, Table

GRIDS = {
    "quick": {"blocks": 3, "steps": {"own": 100, "large": 15}},
    "full": {"blocks": 7, "steps": {"own": 200, "large": 50}},
}
BATCHES = {"own": (8, 32, 64, 128, 256), "large": (16, 64, 128)}  # of one rank
CHECKED = {"own": (32, 128), "large": (64,)}  # at which steps on several ranks are predicted


@dataclass
class Measured:
    """What was measured on this machine.

    compute    of each model, "own" and "large"
    net, lines the network, and for each number of ranks the lines through its least and median times
    steps      {(model, W, b): median seconds of a step in each block}
    bytes      of each model's gradients
    """

    compute: dict[str, Compute]
    times: dict[int, tuple[list[int], list[float]]]
    lines: dict[tuple[int, str], Line]
    steps: dict[tuple[str, int, int], list[float]]
    bytes: dict[str, int]
    added: float
    oversubscribed: list[int]

    def network(self, without: int | None = None) -> Network:
        """A and B of all numbers of ranks, or of all but one, if there are others."""
        some = {W: found for W, found in self.times.items() if without != W} or self.times
        return calibrate.network(some, self.added)


@experiment(GRIDS)
def run(
    lab, work, preset="quick", *, net: str | None = None, compute: tuple[float, float] | None = None,
    size: int | None = None, s_min: float | None = None, b_crit: float | None = None, optimizers=("sgd",),
    algorithm="best", max_ranks=4096, launcher: str | None = None,
) -> Result:  # fmt: skip
    """Project the time to a target to powers of two of ranks, at most `max_ranks`.

    net            a name or custom:A,B[,C], see `cost_model.network`; measured on ranks of this machine if None
    compute        (c0, d): seconds of a step that do not, and that do depend on the examples; measured if None
    size           bytes of the gradients; those of the model if None
    s_min, b_crit  steps to the target, S = s_min (1 + b_crit / B); if None, those of `study steps` with the optimizer
    algorithm      of the all-reduce: one of cost_model.ALGORITHMS, or the best of them for each number of ranks
    """
    (optimizer,) = optimizers
    if compute is not None and not (len(compute) == 2 and 0.0 <= compute[0] < math.inf and 0.0 < compute[1] < math.inf):
        raise ConfigurationError(f"compute is c0, d in seconds a step and an example, d above 0, got {compute}")
    given = None if net is None else cost_model.network(net)
    cost_model.all_reduce(algorithm, 2, 1, given or cost_model.Network("", 0.0, 0.0))
    steps, source = _steps_to_target(lab, work, preset, s_min, b_crit, optimizer)
    found = recording = None
    network, own = given, None if compute is None else Compute(Line(*compute, (), (), ()), (1.0,))
    if network is None or own is None:
        found = measured(lab, work, GRIDS[preset], launcher, network=network is None)
        recording = _recorded(work)
        network, own = network or found.network(), own or found.compute["own"]
    nbytes: int = size or (found.bytes["own"] if found else arena_of(work.build()).message.nbytes)
    model = projection.Model(network, algorithm, own, nbytes, *steps)
    seen = max((W for _, W, _ in found.steps), default=1) if found else 1
    rows = [projection.row(model, 1 << k, seen, recording) for k in range(max_ranks.bit_length())]
    validation = _validation(found) if found and given is None else []
    result = Result(
        "project",
        f"How soon would the target be reached on up to {rows[-1]['W']:,} ranks, and what stops it from being sooner?",
        findings.headline(model, rows, source),
        findings.checks(rows, validation),
        [Table("projection", projection.COLUMNS, rows, findings.CAPTION, findings.MEANINGS)],
        findings.pictures(model, rows, seen, found, recording),
    )
    if found:
        result.tables += findings.calibration_tables(found, validation)
    crowded = f", {own.crowding:.2f} times that with all at work"
    result.methods = (
        f"{work.name}; {nbytes:,} bytes of gradients; {steps[0]:.4g} (1 + {steps[1]:.4g} / B) steps to target "
        f"({source});"
        f" a step takes {own.line.a * 1e6:.4g} us + {own.line.b * 1e6:.4g} us b on a rank with b examples "
        f"({'given' if compute else f'measured on one rank{crowded}'}), as long as on the slowest rank, and an "
        f"all-reduce after backward; network {network.name}: alpha = {network.A * 1e6:.4g} us a message, "
        f"beta = {network.B * 1e9:.4g} ns a byte sent, gamma = {network.C * 1e9:.4g} ns a byte added "
        f"({network.basis}); algorithm of the all-reduce: {algorithm}."
    )
    result.notes = findings.notes(work, model, rows, seen, found, validation)
    return result


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
    sizes = calibrate.ALL_REDUCE_BYTES["quick" if grid is GRIDS["quick"] else "full"]
    repeats = calibrate.REPEATS["quick" if grid is GRIDS["quick"] else "full"]

    def step(kind, m, b, W):
        return {"kind": kind, "config": configs[m], "batch": b * W, "steps": grid["steps"][m]}

    asked = {
        1: [step("steps", m, b, 1) for m, b in alone] + [{"kind": "add", "size": calibrate.ADDED_BYTES, "repeats": 50}]
    }
    for W in ranks[1:]:
        asked[W] = [step("alone", m, b, 1) for m, b in many] + [step("steps", m, b, W) for m, b in many]
        asked[W].append({"kind": "all-reduce", "sizes": sizes, "repeats": repeats})
    blocks: dict[int, list] = {W: [] for W in ranks}
    for _ in range(grid["blocks"]):
        for W in ranks:
            blocks[W].append(measure.times(lab, W, asked[W], launcher))
    return gathered(blocks, alone, many, sizes)


def gathered(blocks, alone, many, sizes) -> Measured:
    """What the answers of `measure` to `measured` say."""
    crowded = [W for W, found in blocks.items() if any(block["oversubscribed"] for block in found)]
    ranks = [W for W in blocks if W > 1 and W not in crowded]
    if len(blocks) > 1 and not ranks:
        raise ConfigurationError("all ranks but one share cores here, and their times say nothing: name a --net")
    single = {key: [np.ravel(block["cells"][k]["step"]) for block in blocks[1]] for k, key in enumerate(alone)}
    steps = {(m, 1, b): [float(np.median(s)) for s in found] for (m, b), found in single.items()}
    times, lines, together = {}, {}, {m: [] for m, _ in alone}
    for W in ranks:
        for k, (m, b) in enumerate(many):
            steps[m, W, b] = [
                float(np.median(np.mean(block["cells"][len(many) + k]["step"], axis=0))) for block in blocks[W]
            ]
            if max(ranks) == W:
                each = np.concatenate([np.ravel(block["cells"][k]["step"]) for block in blocks[W]])
                together[m].append((float(np.median(each) / np.median(np.concatenate(single[m, b]))), each))
        all_reduce = np.concatenate([block["cells"][-1]["seconds"] for block in blocks[W]], axis=1)
        times[W] = sizes, np.median(all_reduce, axis=1).tolist()
        for name, how in (("least", np.min), ("median", np.median)):
            lines[W, name] = calibrate.line(sizes, how(all_reduce, axis=1))
    compute, size = {}, {}
    for m in dict.fromkeys(m for m, _ in alone):
        of_batch = {b: np.concatenate(found) for (one, b), found in single.items() if one == m}
        crowding = float(np.median([ratio for ratio, _ in together[m]])) if together[m] else 1.0
        spread = [t / np.median(each) for _, each in together[m] for t in each]
        compute[m] = calibrate.compute(of_batch, max(crowding, 1.0), spread)
        size[m] = blocks[1][0]["cells"][alone.index((m, next(iter(of_batch))))]["bytes"]
    add = [block["cells"][-1] for block in blocks[1]]
    added = float(np.median([s for one in add for s in one["seconds"]])) / add[0]["size"]
    return Measured(compute, times, lines, steps, size, added, crowded)


def _recorded(work):
    config = {**work.config(), "seed": 0}
    data, model = workload.load(config), workload.build(config)
    loss, _ = workload.objective(config, model, data)
    b = min(64, len(data.train_x))
    return replay.record(model, loss, (data.train_x[:b], data.train_y[:b]))


def _steps_to_target(lab, work, preset, s_min, b_crit, optimizer) -> tuple[tuple[float, float], str]:
    """(S_min, B_crit) as given, as a table in the directory says, or from `study steps`, whose runs may be known."""
    if found := scaling.fit_given(s_min, b_crit):
        return found, "the fit that was given"
    found = scaling.fit_found(lab, optimizer)
    if found is None:
        from allgrad.launch.study.experiments import steps

        if not work.is_default:
            raise ConfigurationError(
                f"{lab.out} has no fit of the steps to a target with {optimizer}: run allgrad study steps into it "
                f"before, or give --s-min and --b-crit"
            )
        tables = steps.run(lab, work, preset, optimizers=(optimizer,)).tables
        found = scaling.hyperbola(tables[1].rows, optimizer)
    if found is None or not (found[0] > 0.0 and math.isfinite(found[1])):
        raise ConfigurationError(
            f"the steps to target of {optimizer} do not bend with the batch size, and cannot be projected: "
            f"give --s-min and --b-crit"
        )
    return found, f"study steps, {optimizer}"


# --- what is compared ------------------------------------------------------------------------------------------------


def _validation(found: Measured) -> list[dict]:
    """Steps on several ranks, predicted from one rank and calibration, beside what was measured."""
    rows = []
    for (m, W, b), blocks in found.steps.items():
        if W == 1:
            continue
        compute, net, others = found.compute[m], found.network(without=W), [p for p in found.times if p != W]
        exchange = cost_model.all_reduce(calibrate.exact(W, found.bytes[m]), W, found.bytes[m], net)
        late = compute.slowest_median(W)
        predicted, seen = late * compute(b) + exchange, float(np.median(blocks))
        rows.append({
            "W": W, "model": m, "b": b, "B": W * b, "t_predicted": predicted, "t_exchange": exchange,
            "t_uncrowded": late * compute.line(b) + exchange, "t_measured": seen, "t_least": min(blocks),
            "t_most": max(blocks), "error": predicted / seen - 1.0,
            "network_from": " ".join(map(str, others or [W])),
        })  # fmt: skip
    return rows
