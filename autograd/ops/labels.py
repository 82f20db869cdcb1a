"""Labels: integers that name classes, or rows of a table, and what becomes of those that name none.

On the CPU a loss looks at its labels, and raises. On a device nobody waits for them, and a kernel that is given a label
out of range ends everything that the process has there. So no kernel is: the loss and the gradient of such a label are
nan, as is the row that `embedding` finds for it, and how far it was out of range is kept on the device, where
`unknown_label` finds it.
"""

import math

from allgrad.autograd.arrays import astype, full, xp
from allgrad.autograd.engine import Tensor, primitive

# (loss, classes, device): how far labels have been below the first class, and above the last, as a constant
_out_of_range: dict = {}


def not_a_class(name, label, classes):
    """The error of a label that is no class, or of an index that is no row of a table."""
    one, all_of_them = ("index", "rows") if name == "embedding" else ("label", "classes")
    return ValueError(f"{name}: {one} {label} is not one of the {classes} {all_of_them} 0 .. {classes - 1}")


def safe_labels(name, labels, classes, ignore_index):
    """Labels on a device with the nearest class for those that are none, and by how much each of them was moved.

    Labels equal to ignore_index stay what they are.
    """
    n = xp[type(labels)]
    off = labels - n.clip(labels, 0, classes - 1)
    if not 0 <= ignore_index < classes:
        off = n.where(labels == ignore_index, 0, off)
    if math.prod(labels.shape):
        key = name, classes, str(labels.device)
        if key not in _out_of_range:
            _out_of_range[key] = Tensor(full((2,), 0, labels))
        below, above = _out_of_range[key].data
        n.minimum(below, n.amin(off), out=below)
        n.maximum(above, n.amax(off), out=above)
    return labels - off, off


@primitive
def spoil(loss, *, off):
    """The losses, with nan for labels that were moved; of a sum or mean, if any was. The gradients likewise."""
    n = xp[type(off)]
    off = n.abs(off)
    nan_or_0 = astype(n.sqrt(-(off if loss.shape == off.shape else off.sum())), loss.dtype)
    return loss + nan_or_0, lambda g: g + nan_or_0


def unknown_label():
    """The error of a label on a device that was no class, as a sentence; None if all were since the last call."""
    for (name, classes, _), seen in _out_of_range.items():
        below, above = seen.tolist()
        if below or above:
            seen.assign(0)
            return str(not_a_class(name, below or classes - 1 + above, classes))
    return None
