"""Layers that put elements around signals (N, C, L), images (N, C, H, W) and volumes, also without N."""

from allgrad.autograd.nn.module import Module
from allgrad.autograd.ops import pad


class _Pad(Module):
    axes, mode, value = 1, "constant", 0.0

    def __init__(self, padding):
        self.padding = (padding,) * (2 * self.axes) if hasattr(padding, "__index__") else tuple(padding)
        if len(self.padding) != 2 * self.axes:
            wanted = f"an integer or {2 * self.axes} of them, (left, right) of the last axis first"
            raise ValueError(f"{type(self).__name__}: padding is {wanted}, got {padding}")

    def __call__(self, x):
        if self.mode != "constant" and x.ndim not in (self.axes + 1, self.axes + 2):
            wanted = f"{self.axes + 1} or {self.axes + 2} axes"
            raise ValueError(f"{type(self).__name__}: needs x of {wanted}, got the shape {tuple(x.shape)}")
        return pad(x, self.padding, self.mode, self.value)


class _ConstantPad(_Pad):
    def __init__(self, padding, value):
        super().__init__(padding)
        self.value = value


def _pads(name, mode, doc, base=_Pad):
    """The classes name1d, name2d and name3d."""
    for axes, what in enumerate(("signals (N, C, L)", "images (N, C, H, W)", "volumes (N, C, D, H, W)"), 1):
        doc_of_axes = f"Surround {what} with {doc}: see `ag.pad`.\n\npadding: elements on every side, or on each."
        members = {"axes": axes, "mode": mode, "__doc__": doc_of_axes, "__module__": __name__}
        yield type(f"{name}{axes}d", (base,), members)


ZeroPad1d, ZeroPad2d, ZeroPad3d = _pads("ZeroPad", "constant", "zeros")
ConstantPad1d, ConstantPad2d, ConstantPad3d = _pads("ConstantPad", "constant", "a value", _ConstantPad)
ReflectionPad1d, ReflectionPad2d, ReflectionPad3d = _pads("ReflectionPad", "reflect", "their mirror image")
ReplicationPad1d, ReplicationPad2d, ReplicationPad3d = _pads("ReplicationPad", "replicate", "their border")
CircularPad1d, CircularPad2d, CircularPad3d = _pads("CircularPad", "circular", "their other end")
