"""Back-propagation in the smallest network worth training: two inputs, two hidden units, one output, on XOR.

    python examples/xor.py
    mpirun -n 2 python examples/xor.py

It prints, before any training, the graph of one sample: every node with its value (computed from top to bottom) and
the partial derivative of the loss by it (computed from bottom to top). One of these derivatives is then worked out by
hand with the chain rule. After that the network is trained, and prints its answers.
"""

import math

import numpy as np

import allgrad as ag
from allgrad import ddp, nn, optim

HIDDEN = 2  # hidden units: XOR cannot be done with fewer
LR = 1.0  # learning rate: how far a step goes against the gradient
STEPS = 2000  # updates of the weights, each with all four samples
SEED = 0  # of the initial weights; from those of seed 2, training gets stuck: try it
SAMPLE = 2  # the sample whose graph is drawn: the inputs (1, 0) and their target 1

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
TARGETS = np.array([[0], [1], [1], [0]], dtype=np.float32)


class Network(nn.Module):
    """y = sigmoid(v . h + c), where h = tanh(W x + b): W and b in `hidden`, v and c in `output`."""

    def __init__(self):
        self.hidden = nn.Linear(2, HIDDEN)
        self.output = nn.Linear(HIDDEN, 1)

    def __call__(self, x):
        h = self.hidden(x).tanh()
        return self.output(h).sigmoid()


comm = ddp.init()  # alone, or one of several ranks; all do the same here, and the first one prints
ag.manual_seed(SEED)
model = Network()

if comm.rank == 0:
    sample, target = INPUTS[SAMPLE], TARGETS[SAMPLE]
    print(f"The graph of one sample, with inputs {sample} and target {target}, before training:\n")
    print(ag.draw_graph(lambda: ag.mse_loss(model(sample), target), model, precision=4))

    # Forward, by hand: a and z are what the layers pass on to tanh and sigmoid.
    W, b = model.hidden.weight.tolist(), model.hidden.bias.tolist()
    v, c = model.output.weight.tolist()[0], model.output.bias.item()
    x, t = sample.tolist(), target.item()
    h = [math.tanh(W[i][0] * x[0] + W[i][1] * x[1] + b[i]) for i in range(HIDDEN)]
    z = sum(v[i] * h[i] for i in range(HIDDEN)) + c
    y = 1 / (1 + math.exp(-z))
    # Backward, by hand: one factor for each node between the loss (y - t)^2 and the weight W[0][0].
    path = (
        (f"d loss / d y = 2 (y - t) = 2 ({y:.4f} - {t:g})", 2 * (y - t), "#7"),
        (f"d y / d z = y (1 - y) = {y:.4f} (1 - {y:.4f})", y * (1 - y), "#6"),
        ("d z / d h = output.weight[0, 0]", v[0], "#3, unit 0"),
        (f"d h / d a = 1 - h^2 = 1 - ({h[0]:.4f})^2", 1 - h[0] ** 2, "#2, unit 0"),
        ("d a / d w = input 0", x[0], "#0, [0, 0]"),
    )
    print(
        "\nBy hand, the way back from the loss to w = hidden.weight[0, 0], which leads from input 0 to hidden unit 0:\n"
    )
    print(f"{'factor':45}    value  product so far, that is d loss / d node")
    product = 1.0
    for text, factor, node in path:
        product *= factor
        print(f"{text:45}  {factor:7.4f}  {product:7.4f}  {node}")
    print(f"\nd loss / d w: {product:.6f} by hand, {model.hidden.weight.grad[0, 0]:.6f} in the graph\n")

optimizer = optim.SGD(model, LR)
for step in range(STEPS):
    optimizer.zero_grad()
    loss = ag.mse_loss(model(INPUTS), TARGETS)  # the mean over the four samples
    loss.backward()
    optimizer.step()
    if comm.rank == 0 and (step + 1) % 400 == 0:
        print(f"step {step + 1}: loss {loss.item():.4f}")

if comm.rank == 0:
    print()
    for (x0, x1), (t,), (y,) in zip(INPUTS, TARGETS, model(INPUTS).tolist()):
        print(f"{x0:g} xor {x1:g} is {t:g}, the network says {y:.3f}")
