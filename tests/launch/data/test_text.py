"""Text as data: windows of characters, the vocabulary, files and folders, every refusal, and models that learn it."""

import hashlib
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.__main__ import main
from allgrad.launch.data import load

FOX = "the quick brown fox jumps over the lazy dog\n" * 10  # 440 characters, 28 of them distinct


@pytest.fixture
def fox(tmp_path):
    (tmp_path / "fox.txt").write_text(FOX)
    return tmp_path / "fox.txt"


@pytest.mark.parametrize("context", [1, 7, 43])
def test_windows_follow_one_another_and_predict_every_character_once(fox, context):
    data = load(f"text:{fox}?context={context}")
    known = sorted(set(FOX[:396]))
    assert data.vocabulary == "".join(known) and data.classes == data.outputs == len(known) + 1
    assert data.features == (context,) and data.image is None
    for x, y, part in [(data.train_x, data.train_y, FOX[:396]), (data.val_x, data.val_y, FOX[396:])]:
        assert x.shape == y.shape == ((len(part) - 1) // context, context) and x.dtype == y.dtype == np.int64
        assert "".join(known[c] for c in x.ravel()) == part[: x.size]
        assert "".join(known[c] for c in y.ravel()) == part[1 : x.size + 1]


def test_characters_that_only_validation_has_share_the_last_code(tmp_path):
    (tmp_path / "t").write_text("ab" * 45 + "aéb\U0001f600abab~a", encoding="utf-8")
    data = load(f"text:{tmp_path / 't'}?context=4")
    assert data.vocabulary == "ab" and data.classes == 3
    assert data.val_x.tolist() == [[0, 2, 1, 2], [0, 1, 0, 1]] and data.val_y.tolist() == [[2, 1, 2, 0], [1, 0, 1, 2]]


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path):
    for name, text in [("b", "22222"), ("a", "11111" * 20), (".hidden", "33333"), ("c", "44444")]:
        (tmp_path / name).write_text(text)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d").write_text("55555")
    (tmp_path.parent / "joined").write_text("11111" * 20 + "22222" + "44444")
    folder, file = (load(f"text:{path}?context=3") for path in (tmp_path, tmp_path.parent / "joined"))
    assert folder.sha256 == file.sha256


def test_text_alone_is_the_first_million_characters_of_the_standard_library():
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "".join(file.read_bytes().decode() for file in files)[:1_000_000]
    data = load("text")
    assert data.features == (64,) and len(data.train_x) == 899_999 // 64 and len(data.val_x) == 99_999 // 64
    assert data.vocabulary == "".join(sorted(set(text[:900_000])))
    assert "".join(data.vocabulary[c] for c in data.train_x[:500].ravel()) == text[: 500 * 64]


def test_the_hash_depends_on_the_characters_behind_the_codes(tmp_path):
    for name, a, b in [("1", "a", "b"), ("2", "x", "y")]:
        (tmp_path / name).write_text((a + b) * 50)
    one, two = (load(f"text:{tmp_path / name}?context=2") for name in "12")
    assert (one.train_x == two.train_x).all() and one.sha256 != two.sha256


@pytest.mark.parametrize(
    "spec, fragments",
    [
        ("text:", ["text:", "?context="]),
        ("text?context=0", ["text?context=0", "1 character or more"]),
        ("text?context=", ["1 character or more"]),
        ("text?context=6.5", ["1 character or more"]),
        ("text?label=a", ["text?label=a", "?context="]),
        ("text:{}/none", ["none", "cannot be read", "No such file"]),
        ("text:{}/short?context=9", ["short", "20 characters", "at least 100", "?context="]),
        ("text:{}/empty", ["0 characters"]),
        ("text:{}/bytes", ["bytes", "not text in UTF-8", "byte 2", "0xff"]),
        ("text:{}", ["bytes", "not text in UTF-8"]),
    ],
)
def test_bad_texts_are_refused(spec, fragments, tmp_path):
    (tmp_path / "short").write_text("a" * 20)
    (tmp_path / "empty").write_text("")
    (tmp_path / "bytes").write_bytes(b"ok\xff")
    with pytest.raises(ConfigurationError) as caught:
        load(spec.format(tmp_path))
    text = str(caught.value)
    assert "\n" not in text and not [fragment for fragment in fragments if fragment not in text], text


@pytest.mark.parametrize("model", ["lstm:24", "lstm:16,2", "transformer:24,2,1"])
def test_character_models_learn_a_sentence(model, fox, tmp_path, capsys):
    flags = f"--data text:{fox}?context=8 --model {model} --optimizer adam --lr 0.01 --global-batch 16 --steps 60"
    assert main(["train", *flags.split(), "--out", str(tmp_path / "out")]) == 0
    rows = dict(line.split("  ")[-2:] for line in capsys.readouterr().out.splitlines()[1:])
    rows = {key.strip(): value for key, value in rows.items()}
    assert float(rows["validation loss"]) < 1.5 < np.log(29) and float(rows["validation accuracy"]) > 0.6


def test_the_bits_of_a_text_model_do_not_depend_on_the_ranks(fox, start, tmp_path):
    flags = f"train --data text:{fox}?context=8 --model lstm:8 --dropout 0.2 --shards 3 --global-batch 10 --steps 6"
    hashes = set()
    for ranks in (0, 2):
        done = start(f"{flags} --out out{ranks}", tmp_path, ranks)
        assert done.status == 0, done.err
        model = tmp_path / f"out{ranks}" / "checkpoints" / "step-00000006" / "model.safetensors"
        hashes.add(hashlib.sha256(model.read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_a_model_of_the_users_own_gets_the_window_and_the_size_of_the_vocabulary(fox, tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "from allgrad import nn\n\n\ndef bigrams(inputs, outputs):\n    assert (inputs, outputs) == (5, 29)\n"
        "    return nn.Embedding(outputs, outputs)\n\n\ndef sums(inputs, outputs):\n"
        "    return nn.Linear(inputs, outputs)\n"
    )
    flags = f"--data text:{fox}?context=5 --global-batch 16 --steps 9 --model {tmp_path}/own.py"
    assert main(["train", *f"{flags}:bigrams".split()]) == 0
    assert main(["train", *f"{flags}:sums".split()]) == 2
    assert "maps 2 samples to shape (2, 29), but the data needs (2, 5, 29)" in capsys.readouterr().err


def test_a_byte_order_mark_is_no_character(tmp_path):
    text = "The quick brown fox jumps over the lazy dog.\n" * 40
    (tmp_path / "plain").mkdir()
    (tmp_path / "marked").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "plain" / name).write_text(text, encoding="utf-8")
        (tmp_path / "marked" / name).write_text(text, encoding="utf-8-sig")
    plain, marked = (load(f"text:{tmp_path / name}?context=16") for name in ("plain", "marked"))
    assert marked.sha256 == plain.sha256 and "\ufeff" not in marked.vocabulary
