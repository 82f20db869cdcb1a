"""Devices, dtypes and precisions that shards are placed on: what is refused, and what torch is told."""

from unittest import mock

import pytest
import torch

from allgrad.ddp import ConfigurationError, Placement
from tests.device.pretend import pretend

HAS_GPU = torch.cuda.is_available()


def test_what_cannot_be_placed_is_refused_in_one_sentence():
    found = torch.cuda.device_count() if HAS_GPU else 0
    for arguments, text in {
        ("tpu",): "device='tpu' is not cpu, cuda or cuda:N",
        (f"cuda:{found}",): f"device='cuda:{found}' asks for GPU {found} of this host, and torch finds {found} here"
        if found else f"device='cuda:0' needs a GPU, and torch {torch.__version__} finds none on this host: give",
        ("numpy", "float16"): "NumPy does not compute in float16: give a device of torch, or dtype='float32'",
        ("cpu", "float32", 0, 1, True, "bf16"): "precision='bf16' is not one of ieee, tf32",
        ("cpu", "float32", 0, 1, True, "tf32"): "precision='tf32' is for products on a GPU, and has no effect with "
        "device='cpu': leave it out",
        ("numpy", "float32", 0, 1, True, "tf32"): "precision='tf32' is for products on a GPU, and has no effect with "
        "device='numpy': leave it out",
    }.items():  # fmt: skip
        with pytest.raises(ConfigurationError) as caught:
            Placement(*arguments)
        assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


@pytest.fixture
def flags():
    """What torch is told of products; it is told the same again afterwards."""
    cublas, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with mock.patch.dict(torch.backends.flags_frozen.__globals__, {"__allow_nonbracketed_mutation_flag": True}):
        yield from _told(cublas, cudnn)


def _told(cublas, cudnn):
    places = [
        (cublas, "allow_tf32"), (cudnn, "allow_tf32"), (cublas, "allow_bf16_reduced_precision_reduction"),
        (cublas, "allow_fp16_reduced_precision_reduction"),
    ]  # fmt: skip
    before = [getattr(*place) for place in places]
    for owner, name in places:
        setattr(owner, name, True)
    yield lambda: [getattr(*place) for place in places]
    for (owner, name), value in zip(places, before):
        setattr(owner, name, value)


def test_products_on_a_device_have_the_precision_that_was_asked_for(flags):
    Placement("cpu")
    assert flags() == [True] * 4, "on the host they are nobody's business"
    with pretend():
        Placement("cuda", precision="tf32")
        assert flags() == [True, True, False, False]
        Placement("cuda")
        assert flags() == [False] * 4


def test_the_fingerprint_has_what_bits_depend_on(flags, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert Placement().fingerprint() == {}
    assert Placement("cpu").fingerprint() == {"torch": torch.__version__, "deterministic": True}
    with pretend():
        found = Placement("cuda", deterministic=False, precision="tf32").fingerprint()
        assert found.pop("driver") is None or HAS_GPU
        assert found == {
            "torch": torch.__version__, "deterministic": False, "precision": "tf32", "gpu": "pretended",
            "multiprocessors": 132, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "nccl": found["nccl"], "cublas_workspace": ":16:8",
        }  # fmt: skip
