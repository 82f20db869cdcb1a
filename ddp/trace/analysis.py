"""What a timeline says: where the time of a step goes, who waits for whom, and what may be worth a try."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

from allgrad.ddp.errors import counted

COMPUTING = ("data", "forward", "backward", "optimizer")  # kinds of events that a step consists of, beside exchange
PARTS = (*COMPUTING, "exposed", "other")  # add up to the step
PART_NAMES = {"data": "data wait", "exposed": "exposed exchange", "other": "all else"}
NOTED = 0.05  # of a step, from which on a wait is told
MUCH = 0.15  # of a step, from which on an exchange gives rise to a suggestion


@dataclass(eq=False, slots=True)
class Event:
    """What a thread of a rank did, from `begin` to `end` in seconds.

    kind   "step", "exchange" (what it waits for), "bucket" (what is under way), "layer", or what `Timeline.span` got
    args   of what talks to other ranks: the ranks it `sends` to and `receives` from and the `tag` of these messages,
           or `together` for all ranks; a wait names the call that has `started` what it waits for
    """

    kind: str
    name: str
    thread: str
    begin: float
    end: float
    args: dict = field(default_factory=dict)


# --- from events to more events ----------------------------------------------------------------------------------


def layers(events, final):
    """Backward by layers, from (parameter, when its gradient was final): each goes on until its last one was."""
    found = []
    for whole in (event for event in events if event.kind == "backward"):
        begin, last = whole.begin, None
        for name, when in final[bisect_left(final, begin, key=_when) : bisect_right(final, whole.end, key=_when)]:
            layer = name.rpartition(".")[0] or name
            if last is None or last.name != layer:
                last = Event("layer", layer, whole.thread, begin, when)
                found.append(last)
            last.end = begin = when
            last.args[name] = f"final after {1e6 * (when - whole.begin):.1f} us"
    return found


def _when(pair):
    return pair[1]


def waits(ranks):
    """Note in each event in which a rank talks to others how long it `waited` there, and for which rank (`late`).

    Ranks wait until the last of them has entered the same exchange. Who came late only because of another's lateness
    passes it on to that one.
    """
    met, keys, before, starts = defaultdict(dict), {}, {}, {}
    for rank, events in enumerate(ranks):
        count, talks = Counter(), [e for e in events if e.kind == "exchange" and {"sends", "together"} & e.args.keys()]
        before.update(zip(talks[1:], talks))
        starts |= {(rank, event.args["call"]): event for event in talks if "call" in event.args}
        for event in talks:
            keys[event] = []
            for message in _messages(rank, event.args):
                count[message] += 1
                keys[event].append((message, count[message]))
                met[message, count[message]][rank] = event
    held = {}  # event -> (rank, event) of the last to come, by which it was held up
    for rank, events in enumerate(ranks):
        for event in events:
            call = starts.get((rank, event.args.get("started")), event)
            others = [(e.begin, r, e) for key in keys.get(call, ()) for r, e in met[key].items() if r != rank]
            if others and "call" not in event.args:
                when, who, theirs = max(others, key=lambda other: other[:2])
                event.args["waited"] = min(max(when - event.begin, 0.0), event.end - event.begin)
                event.args["late"] = who
                held[event] = who, theirs
    for event, (who, theirs) in held.items():
        for _ in ranks:
            cause = before.get(theirs)
            if cause not in held or _common(event, cause) <= event.args["waited"] / 2:
                break
            who, theirs = held[cause]
        event.args["late"] = who


def _messages(rank, args):
    if args.get("together"):
        return ["together"]
    tag = args["tag"]
    return [(tag, rank, other) for other in args["sends"]] + [(tag, other, rank) for other in args["receives"]]


def _common(a, b):
    """How long two events waited at the same time."""
    begin, end = max(a.begin, b.begin), min(a.begin + a.args["waited"], b.begin + b.args["waited"])
    return max(end - begin, 0.0)


# --- where the time of a step goes -------------------------------------------------------------------------------


def union(intervals):
    """Disjoint intervals (begin, end), in order, that cover the same."""
    found: list = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif begin < end:
            found.append((begin, end))
    return found


def minus(a, b):
    """What of the disjoint intervals `a` is in none of `b`."""
    borders = [float("-inf"), *(t for interval in b for t in interval), float("inf")]
    gaps = [*pairwise(borders)][::2]
    return union((max(x, y), min(u, v)) for x, u in a for y, v in gaps if max(x, y) < min(u, v))


def length(intervals):
    return sum([end - begin for begin, end in intervals])


def parts(events, step):
    """({part: seconds} of a rank's step, {rank waited for: seconds}), from its events in order of their begin.

    The `PARTS` add up to the `step`. An exchange is exposed while the main thread does nothing else, and `hidden` as
    long as a bucket is under way meanwhile: it costs no time, unless by taking a processor from backward. What is
    exposed is either `waiting` for other ranks or `moving` data.
    """
    begins = [bisect_left(events, when, key=lambda e: e.begin) for when in (step.begin, step.end)]
    inside = events[slice(*begins)]

    def covered(chosen):
        return union((max(e.begin, step.begin), min(e.end, step.end)) for e in chosen)

    exposed = covered(e for e in inside if e.kind == "exchange" and e.thread == step.thread)
    found, taken = {"step": step.end - step.begin, "exposed": length(exposed)}, exposed
    for kind in COMPUTING:
        own = minus(covered(e for e in inside if e.kind == kind), taken)
        found[kind] = length(own)
        taken = union([*taken, *own])
    found["other"] = found["step"] - length(taken)
    found["hidden"] = length(minus(covered(e for e in inside if e.kind == "bucket"), exposed))
    late = defaultdict(list)
    for e in inside:
        if e.args.get("waited"):
            late[e.args["late"]].append((e.begin, e.begin + e.args["waited"]))
    waiting = {rank: length(exposed) - length(minus(exposed, union(intervals))) for rank, intervals in late.items()}
    found["waiting"] = length(exposed) - length(minus(exposed, union(t for one in late.values() for t in one)))
    found["moving"] = found["exposed"] - found["waiting"]
    return found, waiting


# --- in words ----------------------------------------------------------------------------------------------------


def verdict(ranks, slack=0.0, overlap=None) -> dict:
    """The numbers behind the verdict, and its lines as "verdict"; seconds are means over the steps of usual length.

    ranks    of each rank its events, as `waits` has left them
    slack    seconds by which the clocks of two ranks may differ
    overlap  the policy that would be worth a try; "" if none, but exchanging less often might be; None: one rank
    """
    steps = [[parts(events, e) for e in events if e.kind == "step"] for events in ranks]
    order = sorted(range(len(steps[0])), key=lambda i: max(rank[i][0]["step"] for rank in steps))
    usual = order[len(order) // 4 : len(order) - len(order) // 4]  # without the shortest and the longest quarter
    each = [{part: fmean(rank[i][0][part] for i in usual) for part in rank[0][0]} for rank in steps]
    whole = {part: fmean(one[part] for one in each) for part in each[0]}
    pairs = {
        (rank, late): fmean(steps[rank][i][1].get(late, 0.0) for i in usual)
        for rank in range(len(ranks))
        for late in range(len(ranks))
        if late != rank
    }
    noted = {pair: seconds for pair, seconds in pairs.items() if seconds > max(NOTED * whole["step"], slack)}
    numbers = [event.args["step"] for event in ranks[0] if event.kind == "step"]
    said = suggestion(whole, overlap)
    form = "steps {} to {}" if len(numbers) > 1 else "step {}"
    hidden = f" (and {_ms(whole['hidden'])} hidden)" if whole["hidden"] else ""
    share = ", ".join(
        f"{PART_NAMES.get(part, part)} {_ms(whole[part])}{hidden if part == 'exposed' else ''}"
        for part in PARTS
        if whole[part] or part != "exposed"
    )
    lines = [
        f"traced {form.format(numbers[0], numbers[-1])} of {counted(len(ranks), 'rank')}"
        + (f", whose clocks agree within {1e6 * slack:.3g} us" if slack else ""),
        f"a step takes {_ms(whole['step'])}{', on average over the ranks' * (len(ranks) > 1)}: {share}",
        *_delays(each, noted),
        *([said] if said else []),
    ]
    return {
        "steps": [numbers[0], numbers[-1] + 1],
        "seconds": whole,
        "seconds_by_rank": each,
        "waits": [{"rank": r, "for": late, "seconds": s} for (r, late), s in noted.items()],
        "clocks_agree_within": slack,
        "suggestion": said,
        "verdict": lines,
    }


def _delays(each, noted):
    """Who waits for whom, and for what, a line for each rank that is waited for: the worst three."""
    by_late = defaultdict(dict)
    for (rank, late), seconds in noted.items():
        by_late[late][rank] = seconds
    for late, seconds in sorted(by_late.items(), key=lambda item: -sum(item[1].values()))[:3]:
        usual = {part: median(each[rank][part] for rank in seconds) for part in (*COMPUTING, "other")}
        more = {part: each[late][part] - usual[part] for part in usual}
        part = max(more, key=lambda part: more[part])
        wait, why = median(seconds.values()), ""
        if more[part] > wait / 4:
            times = each[late][part] / usual[part] if usual[part] else float("inf")
            much = f"{times:.1f} times as long" if 1.1 <= times < 10 else f"{_ms(more[part])} longer"
            why = f", whose {PART_NAMES.get(part, part)} takes {much}"
        if len(seconds) == 1:
            who = f"rank {min(seconds)} waits"
        elif len(seconds) <= 4:
            *first, last = sorted(seconds)
            who = f"ranks {', '.join(map(str, first))} and {last} wait"
        else:
            who = f"{len(seconds)} ranks wait"
        yield f"{who} {_ms(wait)} a step for rank {late}{why}"


def suggestion(whole, overlap) -> str | None:
    """What is worth a try about the exchange, beyond waiting for others: one sentence, or None."""
    moving = whole["moving"]
    if overlap is None or moving < MUCH * whole["step"]:
        return None
    seen = f"exchanging takes {moving / whole['step']:.0%} of a step beyond waiting"
    if overlap and whole["backward"] > moving / 4:  # there is something to hide it under
        return f"{seen}: try the overlap {overlap!r}"
    return f"{seen}: a larger global batch exchanges less often"


def _ms(seconds):
    return f"{1e3 * seconds:.3g} ms"
