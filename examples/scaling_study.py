"""Up to which batch size does doubling it halve the steps, on data and a model of one's own?

python examples/scaling_study.py                     # all cores of this machine
mpirun -n 64 python examples/scaling_study.py        # rank 0 leads, 63 ranks train
"""

from autograd import nn
from launch.data import digits
from launch.study import Lab, Workload, steps


def odd_or_even():
    """The digits, and whether each is odd."""
    data = digits.load()
    return data.train_x, data.train_y % 2, data.val_x, data.val_y % 2


def network(inputs, outputs):
    """One hidden layer of tanh units."""
    return nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, outputs))


def main(out="runs/scaling_study", jobs=None, batches=(8, 32, 128, 512)):
    with Lab(out, jobs) as lab:
        result = steps(lab, Workload(odd_or_even(), network), optimizers=("sgd", "adam"), batches=batches, target=0.1)
    result.save_tables(lab.out)
    print(result.headline)
    for row in result.tables[0].rows:
        print(f"{row['optimizer']:>5}  B = {row['B']:>4}  lr = {row['lr']:<8.3g}  {row['S']:7.1f} steps")
    return result


if __name__ == "__main__":
    main()
