"""SOAP: Adam in the eigenbases of Shampoo's matrices."""

import math

import numpy as np

from allgrad.autograd.arrays import cast_like, full, to_numpy
from allgrad.autograd.optim.base import Optimizer, fill, safe_eps

FACTORS = "left", "right", "left_basis", "right_basis"


class SOAP(Optimizer):
    """SOAP, "ShampoO with Adam in the Preconditioner's eigenbasis" (Vyas et al. 2024, "SOAP: Improving and Stabilizing
    Shampoo using Adam", algorithm 3). A parameter of two axes or more is a matrix (M, K) of its first axis and all
    others. Adam, with decoupled weight decay, works on the gradient turned into the bases A (M, M) and B (K, K):

        m = b1 m + (1 - b1) g              v = b2 v + (1 - b2) (A^T g B)^2
        w = (1 - lr weight_decay) w - lr A (A^T mhat B / (sqrt(vhat) + eps)) B^T
        L = b2 L + (1 - b2) g g^T          R = b2 R + (1 - b2) g^T g

    and every `frequency` steps A and B come nearer to the eigenvectors of L and R, by one power iteration, A = Q of the
    QR decomposition of L A; before it the columns of A, and v with them, are sorted by their eigenvalues, as in the
    authors' code. As there, too, the first step makes L, R, A and B, and leaves the matrices as they are.

    A side longer than max_dim keeps the identity as its basis. So do both sides of parameters with fewer axes: they are
    moved by AdamW, from the first step on.
    """

    arrays = ("mean", "variance")
    layerwise = True
    takes_local_steps = False

    def __init__(
        self, owner, lr=3e-3, betas=(0.95, 0.95), eps=1e-8, weight_decay=0.01, l1=0.0, groups=None, frequency=10,
        max_dim=10_000,
    ):  # fmt: skip
        if frequency < 1 or max_dim < 0:
            raise ValueError(f"SOAP: frequency is at least 1 and max_dim at least 0, got {frequency} and {max_dim}")
        self.frequency, self.max_dim = frequency, max_dim
        super().__init__(owner, lr, groups, weight_decay, l1, betas=betas, eps=eps)
        self.factors = {name: {} for name in FACTORS}
        for key, p in self.arena.parameters.items():
            for side, size in zip(FACTORS[:2], _sides(p.shape)):
                if size <= max_dim:
                    self.factors[side][key] = full((size, size), 0.0, self.arena.data)
                    self.factors[f"{side}_basis"][key] = cast_like(np.eye(size), self.arena.data)

    def _make_chunks(self):
        """Tuples (name, w, g, m, v) of one parameter each, in its own shape."""
        flats = self.arena.data, self.arena.grad, self.state["mean"], self.state["variance"]
        views = [self.arena.unflatten(flat) for flat in flats]
        spans = self.arena.spans.items()
        return [
            (h, [(key, *(view[key] for view in views)) for key, span in spans if run.start <= span.start < run.stop])
            for run, h in self.runs
        ]

    def _updated(self):
        return [*super()._updated(), *(p for some in self.factors.values() for p in some.values())]

    def update(self, lr, h, chunks):
        n, (b1, b2), eps = self.xp, h.betas, safe_eps(h.eps, self.arena.dtype)
        for key, w, g, m, v in chunks:
            g = g + h.l1 * n.sign(w) if h.l1 else g
            turned = key in self.factors["left"] or key in self.factors["right"]
            shape = _sides(w.shape) or (1, math.prod(w.shape))
            g = g.reshape(shape)
            if turned and self.steps == 1:
                self._begin(key, g, b2)
                continue
            t = self.steps - turned
            w *= 1.0 - lr * h.weight_decay
            m *= b1
            m += (1.0 - b1) * g.reshape(w.shape)
            v *= b2
            v += ((1.0 - b2) * self._turn(key, g) ** 2).reshape(w.shape)
            root = n.sqrt(v.reshape(shape)) / math.sqrt(1.0 - b2**t) + eps
            d = self._turn(key, m.reshape(shape)) / root
            w -= (lr / (1.0 - b1**t)) * self._turn(key, d, back=True).reshape(w.shape)
            if turned:
                self._follow(key, g, b2)
                if t % self.frequency == 0:
                    self._improve(key, v, shape)

    def _turn(self, key, x, back=False):
        """A^T x B, or A x B^T if back."""
        a, b = (self.factors[name].get(key) for name in FACTORS[2:])
        if a is not None:
            x = (a if back else a.T) @ x
        return x if b is None else x @ (b.T if back else b)

    def _begin(self, key, g, beta):
        """The first L and R, and their eigenvectors, the largest eigenvalue first."""
        self._follow(key, g, beta)
        n = self.xp
        for side in FACTORS[:2]:
            p = self.factors[side].get(key)
            if p is not None and math.isfinite(float(p.sum())):  # else the weights are about to be lost anyway
                self.factors[f"{side}_basis"][key][...] = n.flip(n.linalg.eigh(p)[1], 1)

    def _follow(self, key, g, beta):
        """L and R, with a gradient more."""
        for side, product in (("left", lambda: g @ g.T), ("right", lambda: g.T @ g)):
            p = self.factors[side].get(key)
            if p is not None:
                p *= beta
                p += (1.0 - beta) * product()

    def _improve(self, key, v, shape):
        """One power iteration of the bases, and the order of their columns for v too."""
        n = self.xp
        for axis, side in enumerate(FACTORS[:2]):
            q = self.factors[f"{side}_basis"].get(key)
            if q is None:
                continue
            pq = self.factors[side][key] @ q
            order = n.argsort(-(q * pq).sum(0))
            sorted_v = v.reshape(shape)[order] if axis == 0 else v.reshape(shape)[:, order]
            v[...] = sorted_v.reshape(v.shape)
            q[...] = n.linalg.qr(pq[:, order])[0]

    def state_dict(self):
        """As of any optimizer, and {"left": {"fc1.weight": L, ...}, "right": R, "left_basis": A, "right_basis": B}."""
        factors = {
            name: {key: np.array(to_numpy(p), order="C") for key, p in some.items()}
            for name, some in self.factors.items()
        }
        return {**super().state_dict(), **{name: some for name, some in factors.items() if some}}

    def load_state_dict(self, state):
        """Restore what `state_dict` returned; ValueError if it is of another rule or other parameters."""
        given = {name: {**state.get(name, {})} for name in FACTORS}
        shapes, wanted = (
            {(name, key): np.shape(p) for name, some in of.items() for key, p in some.items()}
            for of in (given, self.factors)
        )
        for name, key in sorted(shapes.keys() | wanted.keys()):
            if (seen := shapes.get((name, key))) != (own := wanted.get((name, key))):
                raise ValueError(f"SOAP: {name!r} of {key!r} has shape {seen} in the state, and here {own}")
        super().load_state_dict({name: value for name, value in state.items() if name not in FACTORS})
        for name, some in self.factors.items():
            for key, p in some.items():
                fill(p, given[name][key])


def _sides(shape):
    """(M, K) of a parameter of two axes or more, () of others."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else ()
