"""Up to which batch size does doubling it halve the steps, with data and a model of one's own?

    python examples/scaling_study.py
    mpirun -n 2 python examples/scaling_study.py

Tells odd digits from even ones, tunes the learning rate of each batch size, and says how many steps each takes. Alone,
the runs are spread over the cores of this machine; of several ranks, the first leads and the others do the runs. What
runs/scaling_study has from an earlier start is not run again.
"""

from allgrad import nn
from allgrad.launch.data import digits
from allgrad.launch.study import Lab, Workload, steps


def odd_or_even():
    """The digits, and whether each is odd."""
    data = digits.load()
    return data.train_x, data.train_y % 2, data.val_x, data.val_y % 2


def network(inputs, outputs):
    """One hidden layer of tanh units."""
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))


if __name__ == "__main__":
    with Lab("runs/scaling_study") as lab:
        work = Workload(odd_or_even(), network)
        result = steps(lab, work, optimizers=["sgd"], batches=[16, 32, 64, 128, 256], target=0.1)
    print(result.headline)
    for row in result.tables[0].rows:
        print(f"batch {row['B']:>3}: {row['S']:6.1f} steps with rate {row['lr']:.2g}")
