"""Devices and dtypes that shards are placed on: what is refused, and in what they arrive."""

import pytest
import torch

from allgrad.ddp import ConfigurationError, Placement

HAS_GPU = torch.cuda.is_available()


def test_what_cannot_be_placed_is_refused_in_one_sentence():
    found = torch.cuda.device_count() if HAS_GPU else 0
    for arguments, text in {
        ("tpu",): "device='tpu' is not cpu, cuda or cuda:N",
        (f"cuda:{found}",): f"device='cuda:{found}' asks for GPU {found} of this host, and torch finds {found} here",
        ("numpy", "float16"): "NumPy does not compute in float16: give a device of torch, or dtype='float32'",
    }.items():
        with pytest.raises(ConfigurationError) as caught:
            Placement(*arguments)
        assert str(caught.value).startswith(text) and "\n" not in str(caught.value)
