"""`placed`: constructors that take torch's `device` and `dtype`."""

import functools
import inspect
from collections.abc import Callable

from allgrad.autograd.engine import default_dtype, get_default_dtype

NAMES = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("device", "dtype")]


def placed(init: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a layer's `__init__`: it also takes `device` and `dtype` of what it makes, those of `Module.to`."""

    @functools.wraps(init)
    def __init__(self, *arguments, device=None, dtype=None, **options):
        with default_dtype(get_default_dtype() if dtype is None else "float64"):  # what is drawn, is rounded once
            init(self, *arguments, **options)
        if device is not None:
            self.to(device=str(device))
        if dtype is not None:
            self.to(dtype)

    signature = inspect.signature(init)
    __init__.__signature__ = signature.replace(  # pyright: ignore[reportAttributeAccessIssue]
        parameters=sorted([*signature.parameters.values(), *NAMES], key=lambda p: p.kind)
    )
    return __init__
