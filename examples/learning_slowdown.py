"""One sigmoid neuron learns by the quadratic cost and by cross-entropy, at the same rate.

Input 1, target 0, 300 epochs, two starts. The worse start stalls the quadratic cost: its slope has
the factor sigma'(z), which is close to 0 where the neuron is wrong and sure.

    python examples/learning_slowdown.py slowdown.png
"""

import sys

import matplotlib as mpl
import numpy as np

import crossent

mpl.use("Agg")
import matplotlib.pyplot as plt

RATE, EPOCHS = 0.15, 300
STARTS = [(0.6, 0.9), (2.0, 2.0)]
COSTS = {"quadratic": crossent.QuadraticCost(), "cross-entropy": crossent.BinaryCrossEntropy()}


def train(cost, weight, bias):
    """Return the neuron's output before each epoch and after the last, and the first slope."""
    outputs, first = [], None
    for _ in range(EPOCHS):
        z = np.array([weight * 1.0 + bias])
        outputs.append(crossent.sigmoid(z)[0])
        _, slope = cost.value_and_grad(z, [0.0])  # dC/dz, which is dC/db, and dC/dw as x = 1
        first = slope[0] if first is None else first
        weight, bias = weight - RATE * slope[0], bias - RATE * slope[0]
    outputs.append(crossent.sigmoid(np.array([weight + bias]))[0])
    return np.array(outputs), first


def main(path):
    """Train, print and draw."""
    figure, axes = plt.subplots(1, len(STARTS), figsize=(9, 3.5), sharey=True, layout="constrained")
    print("start       cost           first slope  below 1/2 at epoch  ends at")
    for axis, start in zip(axes, STARTS, strict=True):
        for name, cost in COSTS.items():
            outputs, first = train(cost, *start)
            below = int(np.argmax(outputs < 0.5))
            print(f"{start!s:10}  {name:13}  {first:11.4f}  {below:18d}  {outputs[-1]:7.4f}")
            axis.plot(outputs, label=name)
        axis.set(title=f"weight and bias start at {start}", xlabel="epoch", ylim=(0, 1))
    axes[0].set_ylabel("output (the target is 0)")
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    print(f"Drew {path}.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python learning_slowdown.py PICTURE")
    main(sys.argv[1])
