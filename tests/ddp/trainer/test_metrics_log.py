"""What a run leaves to read: lines that a resumed run continues, and a summary."""

import json

from allgrad.ddp.trainer.metrics_log import Journal


def test_a_run_that_goes_on_keeps_the_lines_up_to_its_checkpoint(tmp_path):
    path = tmp_path / "out" / "metrics.jsonl"
    with Journal(path.parent, 0, 9, speak=True) as journal:
        for step in (2, 4, 6):
            journal.write({"step": step})
    with open(path, "a") as file:
        file.write('{"step": 8')  # a line that a kill cut short
    with Journal(path.parent, 4, 9, speak=True) as journal:
        journal.write({"step": 5})
        journal.finish({"steps": 9})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 2}, {"step": 4}, {"step": 5}]
    assert json.loads((path.parent / "summary.json").read_text()) == {"steps": 9}


def test_ranks_that_do_not_speak_write_nothing(tmp_path):
    with Journal(tmp_path / "out", 0, 9, speak=False) as journal:
        journal.write({"step": 1})
        journal.advance(1, 0.5, 9)
        journal.finish({})
    assert not (tmp_path / "out").exists()
