"""Texts about options: Python's spelling, any other, and whole on their way from rank to rank."""

import json
import pickle

import pytest

from allgrad import nn
from allgrad.ddp import ConfigurationError, DistributedDataParallel, Diverged, Exchange, LocalSGD
from allgrad.ddp.errors import Message, counted, tell

FLAG = lambda name, value: f"--{name}" if value is None else f"--{name} {value}"


def error(kind=ConfigurationError):
    return kind(
        "{compress} of {why.value} needs {shards:2}, {wire:float16}, {wire} or {compress.name}",
        compress="topk:0.1", why="{odd} text",
    )  # fmt: skip


@pytest.mark.parametrize("kind", [ConfigurationError, Diverged])
def test_options_are_told_as_arguments_or_as_asked_for(kind):
    found = pickle.loads(pickle.dumps(error(kind)))
    assert str(found) == "compress='topk:0.1' of {odd} text needs shards=2, wire='float16', wire or compress"
    assert (
        found.told(FLAG) == "--compress topk:0.1 of {odd} text needs --shards 2, --wire float16, --wire or --compress"
    )


def test_a_text_without_options_is_no_template():
    assert str(ConfigurationError("{a} and {")) == ConfigurationError("{a} and {").told(FLAG) == "{a} and {"


def test_a_message_is_a_str_for_whoever_writes_it_down():
    message = Message("try {overlap}", overlap="bucket")
    assert json.dumps([message]) == "[\"try overlap='bucket'\"]" and message.told(FLAG) == "try --overlap bucket"
    assert pickle.loads(pickle.dumps(message)).told(FLAG) == message.told(FLAG)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_error_of_one_rank_reaches_all_of_them_whole(ranks, simulate):
    def fail(comm):
        if comm.rank == ranks - 1:
            raise error()

    def told(comm):
        with pytest.raises(ConfigurationError) as caught:
            comm.agree_or_raise(fail, comm)
        return str(caught.value), caught.value.told(FLAG)

    assert simulate(ranks, told) == [(str(error()), error().told(FLAG))] * ranks


def test_the_short_form_sets_the_groups():
    model = nn.Linear(2, 2)
    short = DistributedDataParallel(model, sync_every=4, sync_after=2, overlap="after")
    assert (short.local.every, short.local.after, short.overlap.policy) == (4, 2, "after")
    group = DistributedDataParallel(model, exchange=Exchange(overlap="after"), local_sgd=LocalSGD(4, after=2))
    assert (group.local.every, group.local.after, group.overlap.policy) == (4, 2, "after")
    both = DistributedDataParallel(
        model, exchange=Exchange(overlap="bucket", wire="bfloat16"), bucket=3, wire="float32"
    )
    assert both.overlap.policy == "bucket" and type(both.gradient_sum).__name__ == "ShardSum"
    assert both.overlap.current().description.endswith("buckets of 3 bytes")
    assert DistributedDataParallel(model, sync_every=None, sync_after=0).local is None


@pytest.mark.parametrize(
    "name, like", [("comress", "compress"), ("bucket_size", "bucket"), ("sync_evry", "sync_every")]
)
def test_an_unknown_keyword_is_refused_with_the_closest(name, like):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}', is '{like}' meant"):
        DistributedDataParallel(nn.Linear(2, 2), **{name: 1})


def test_counts_are_words():
    assert [counted(n, "shard") for n in (0, 1, 2, 1437)] == ["0 shards", "1 shard", "2 shards", "1,437 shards"]


def test_what_is_told_is_one_write_on_stderr(monkeypatch, capsys):
    writes = []
    monkeypatch.setattr("sys.stderr.write", writes.append)
    tell("first\nsecond")
    assert writes == ["first\nsecond\n"] and not capsys.readouterr().out
