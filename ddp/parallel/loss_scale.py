"""Loss scaling for float16, whose smallest numbers are larger than many gradients."""


class LossScale:
    """The factor by which losses are multiplied before backward, and gradients divided after it.

    It is halved when a gradient overflows, and that step is left out; after `patience` steps without, it is doubled.
    Powers of two change no bits of what neither over- nor underflows. Micikevicius et al. 2018, section 3.2.
    """

    def __init__(self, value=2.0**16, patience=2000):
        self.value, self.patience, self.good = value, patience, 0

    def update(self, finite):
        """Take note of whether a step's gradient was finite."""
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value /= 2.0
        elif self.good == self.patience:
            self.value, self.good = self.value * 2.0, 0

    def state_dict(self):
        return {"value": self.value, "good": self.good}

    def load_state_dict(self, state):
        self.value, self.good = state["value"], state["good"]
