"""What a run prints when it is done."""

import pytest

from allgrad.launch.report import print_summary

KNOWN = {"noise_scale": 1234.5, "logical_shards": 8, "config": {}}
NONE = {**KNOWN, "noise_scale": None}


@pytest.mark.parametrize(
    "summary, told",
    [
        ({"train_loss": 0.12345, "steps": 12345}, ["train loss  0.1235", "steps  12,345"]),
        ({"val_accuracy": None}, ["validation accuracy  undefined"]),
        ({"overlap": "after", "overlap_why": "one rank"}, ["exchange of gradients  after (one rank)"]),
        (
            {"overlap": "after", "overlap_why": "as asked for", "exchange": "messages"},
            ["exchange of gradients  after (as asked for; messages)"],
        ),
        ({"capture": "auto", "capture_why": "small shards"}, ["capture  auto (small shards)"]),
        (KNOWN, ["noise scale (samples)  1,234"]),
        ({**KNOWN, "noise_scale_ci": (900, 2000)}, ["noise scale (samples)  1,234 (95 % between 900 and 2,000)"]),
        ({**KNOWN, "noise_scale_ci": (900, None)}, ["noise scale (samples)  1,234 (95 % above 900)"]),
        (
            {**KNOWN, "noise_scale_ci": (900, None), "noise_scale_remark": "few samples"},
            ["noise scale (samples)  1,234 (95 % above 900; few samples)"],
        ),
        ({**KNOWN, "noise_scale_remark": "few steps"}, ["noise scale (samples)  1,234 (few steps)"]),
        (NONE, ["noise scale (samples)  undefined (no signal above the noise at the end)"]),
        ({**NONE, "logical_shards": 1}, ["noise scale (samples)  undefined (needs --shards 2 or more)"]),
        ({**NONE, "config": {"sync_every": 4}}, ["noise scale (samples)  undefined (needs the exact gradient)"]),
    ],
)
def test_a_line_a_number_and_why_there_is_none(summary, told, capsys):
    print_summary(summary)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == told
