"""Train a small network on the handwritten digits, on one rank or on several.

    python examples/digits_mlp.py
    mpirun -n 2 python examples/digits_mlp.py
    torchrun --standalone --nproc-per-node 2 examples/digits_mlp.py

The hash printed at the end is the same each time: the weights are equal bit for bit, however many ranks there are.
"""

import allgrad as ag
from allgrad import ddp, nn, optim
from allgrad.launch import data

EPOCHS = 5  # passes over the 1,437 training images
GLOBAL_BATCH = 64  # images a step, over all ranks
SHARDS = 8  # logical shards a batch is cut into: up to 8 ranks share them out
LR = 0.1  # learning rate
MOMENTUM = 0.9  # how much of the last update is kept in the next
HIDDEN = 128  # hidden units
SEED = 0  # of the initial weights and of the order of the images

comm = ddp.init()  # mpirun, torchrun, srun or alone, from the environment
digits = data.load("digits")
ag.manual_seed(SEED)
model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
parallel = ddp.DistributedDataParallel(model, comm, shards=SHARDS)
loader = ddp.DataLoader((digits.train_x, digits.train_y), GLOBAL_BATCH, comm, shards=SHARDS, seed=SEED)
optimizer = optim.SGD(parallel, lr=LR, momentum=MOMENTUM)

for epoch in range(EPOCHS):
    total = 0.0
    for batch in loader.epoch(epoch):
        loss = parallel.backward(batch, lambda x, y: ag.cross_entropy(model(x), y))  # the global mean, on every rank
        optimizer.step()
        total += loss * batch.size
    if comm.rank == 0:
        print(f"epoch {epoch + 1}: training loss {total / len(digits.train_x):.4f} nats")

validation = ddp.evaluate(
    model, (digits.val_x, digits.val_y), lambda x, y: {"accuracy": model(x).argmax(1) == y}, comm, SHARDS
)
if comm.rank == 0:
    print(f"validation accuracy {validation['accuracy']:.4f}")
    print(f"weights sha256 {parallel.arena.sha256()}")
