"""What is said about steps made by hand: what is hidden and exposed, who waits for whom."""

import pytest

from allgrad.ddp.trace import PARTS, Event, length, minus, parts, suggestion, union, verdict, waits


def test_intervals():
    assert union([(3, 5), (1, 2), (4, 7), (2, 2.5), (9, 9)]) == [(1, 2.5), (3, 7)]
    assert minus([(0, 4), (5, 9)], [(1, 2), (3, 6), (8, 10)]) == [(0, 1), (2, 3), (6, 8)]
    assert minus([(1, 2)], []) == [(1, 2)] and minus([], [(1, 2)]) == [] and length([(1, 2.5), (3, 7)]) == 5.5


def of(kind, begin, end, thread="main", **args):
    return Event(kind, kind, thread, begin, end, args)


def test_what_is_hidden_and_what_is_exposed():
    step = of("step", 0.0, 100.0, step=7)
    events = [
        step, of("data", 0, 5), of("forward", 6, 26), of("backward", 26, 66), of("exchange", 40, 42),  # a launch
        of("bucket", 40, 60, "exchange"), of("bucket", 58, 80, "exchange"), of("exchange", 70, 80),
        of("exchange", 72, 78), of("exchange", 45, 50, "exchange"), of("optimizer", 82, 90), of("exchange", 85, 88),
    ]  # fmt: skip
    found, waiting = parts(sorted(events, key=lambda e: (e.begin, -e.end)), step)
    assert found == {
        "step": 100.0, "exposed": 2.0 + 10.0 + 3.0, "data": 5.0, "forward": 20.0, "backward": 38.0, "optimizer": 5.0,
        "other": 1.0 + 4.0 + 2.0 + 10.0, "hidden": 40.0 - 2.0 - 10.0, "waiting": 0.0, "moving": 15.0,
    }  # fmt: skip
    assert sum(found[part] for part in PARTS) == found["step"] and waiting == {}


def ranks_of(forward, exchange_from=None, last=0.030, steps=3):
    """Ranks whose forward takes so long, and who then swap with their neighbours until the last has come."""
    ranks = []
    for rank, seconds in enumerate(forward):
        events = []
        for number in range(steps):
            t = number * 0.040
            other = [rank ^ 1]
            events += [
                of("step", t, t + last + 0.002, step=number), of("data", t, t + 0.001),
                of("forward", t + 0.001, t + 0.001 + seconds),
                of("exchange", t + 0.001 + seconds, t + last, sends=other, receives=other, tag=0),
            ]  # fmt: skip
        ranks.append(events)
    return ranks


def test_a_straggler_is_named_with_what_takes_it_so_long():
    ranks = ranks_of([0.028, 0.020])
    waits(ranks)
    told = verdict(ranks, slack=3e-6, overlap="bucket")
    assert told["waits"] == [{"rank": 1, "for": 0, "seconds": pytest.approx(0.008)}]
    assert told["verdict"][0] == "traced steps 0 to 2 of 2 ranks, whose clocks agree within 3 us"
    assert told["verdict"][2:] == ["rank 1 waits 8 ms a step for rank 0, whose forward takes 1.4 times as long"]
    parts = "data wait 1 ms, forward 24 ms, backward 0 ms"
    assert told["verdict"][1].startswith(f"a step takes 32 ms, on average over the ranks: {parts}")
    assert told["seconds_by_rank"][1]["waiting"] == pytest.approx(0.008) and told["suggestion"] is None


def test_equal_ranks_wait_for_nobody_and_within_the_doubt_of_the_clocks_nobody_is_blamed():
    for forward, slack in [([0.020, 0.020], 0.0), ([0.028, 0.020], 0.010)]:
        ranks = ranks_of(forward)
        waits(ranks)
        assert verdict(ranks, slack)["waits"] == []


def test_who_is_late_only_because_of_another_passes_it_on():
    """Halving and doubling: in the second exchange rank 0 waits for 2, which waits for 3 in the first."""
    ranks = []
    for rank, ready in enumerate([1.0, 1.0, 1.0, 9.0]):
        first = max(ready, 9.0 if rank == 2 else 1.0)
        events = [of("step", 0.0, 11.0, step=0), of("forward", 0.0, ready)]
        for begin, end, other in [(ready, first, rank ^ 1), (first, 9.5, rank ^ 2)]:
            events.append(of("exchange", begin, end, sends=[other], receives=[other], tag=0))
        ranks.append(events)
    waits(ranks)
    told = verdict(ranks)
    assert {(w["rank"], w["for"]): w["seconds"] for w in told["waits"]} == {(r, 3): 8.0 for r in (0, 1, 2)}
    line = "ranks 0, 1 and 2 wait 8e+03 ms a step for rank 3, whose forward takes 9.0 times as long"
    assert told["verdict"][2] == line


def test_the_wait_for_messages_of_a_bucket_is_that_for_who_started_it_last():
    def rank(start, wait):
        message = {"sends": [1 - start], "receives": [1 - start], "tag": 5, "call": 3}
        message |= {"sends": [int(start == 2.0)], "receives": [int(start == 2.0)]}
        return [of("exchange", start, start, **message), of("exchange", wait, 9.0, started=3)]

    ranks = [rank(2.0, 3.0), rank(7.0, 7.5)]
    waits(ranks)
    assert [events[1].args["waited"] for events in ranks] == [4.0, 0.0] and ranks[0][1].args["late"] == 1


@pytest.mark.parametrize(
    "exposed, waiting, backward, overlap, said",
    [(0.4, 0.1, 0.3, "bucket", "exchanging takes 30% of a step beyond waiting: try the overlap 'bucket'"),
     (0.4, 0.1, 0.3, "", "exchanging takes 30% of a step beyond waiting: a larger global batch exchanges less often"),
     (0.8, 0.0, 0.1, "thread", "exchanging takes 80% of a step beyond waiting: a larger global batch exchanges less"
      " often"), (0.4, 0.3, 0.3, "bucket", None), (0.4, 0.1, 0.3, None, None)],
)  # fmt: skip
def test_what_is_worth_a_try(exposed, waiting, backward, overlap, said):
    whole = {"step": 1.0, "moving": exposed - waiting, "backward": backward}
    assert suggestion(whole, overlap) == said
