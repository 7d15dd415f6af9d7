"""A network with one hidden layer learns handwritten digits, by torch's loss and by crossent's.

Same seed, same batches; the import is all that differs, so the curves are the same but for
rounding, which is what the last line prints.

    python examples/digits_network.py digits.png
"""

import sys

import matplotlib as mpl
import torch
from sklearn.datasets import load_digits

import crossent.torch

mpl.use("Agg")
import matplotlib.pyplot as plt

EPOCHS, BATCH, KEPT_BACK = 60, 64, 397
LOSSES = {"torch": torch.nn.CrossEntropyLoss, "crossent": crossent.torch.CrossEntropyLoss}


def digits():
    """Return pixels from 0 to 1 and classes, in random order."""
    pixels, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels, dtype=torch.float32)[order] / 16, torch.tensor(classes)[order]


def train(criterion, x, y):
    """Return the mean loss and the accuracy on rows kept back, after each epoch."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses, accuracies = [], []
    for _ in range(EPOCHS):
        order = torch.randperm(len(x) - KEPT_BACK)
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            criterion(network(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            scores = network(x)
        losses.append(criterion(scores[:-KEPT_BACK], y[:-KEPT_BACK]).item())
        right = scores[-KEPT_BACK:].argmax(1) == y[-KEPT_BACK:]
        accuracies.append(right.float().mean().item())
    return losses, accuracies


def main(path):
    """Train twice, print and draw."""
    torch.set_num_threads(1)  # layers this small gain nothing by more, and wait on a busy machine
    x, y = digits()
    figure, axes = plt.subplots(1, len(LOSSES), figsize=(9, 3.5), sharey=True, layout="constrained")
    curves = []
    for axis, (name, criterion) in zip(axes, LOSSES.items(), strict=True):
        losses, accuracies = train(criterion(), x, y)
        curves.append(torch.tensor(losses))
        print(f"{name:9} loss {losses[0]:.4f} -> {losses[-1]:.3e} nats", end=", ")
        print(f"accuracy on new digits {accuracies[-1]:.4f}")
        axis.semilogy(losses)
        axis.set(title=f"{name}: {accuracies[-1]:.1%} of new digits right", xlabel="epoch")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean loss of the training rows, in nats")
    figure.savefig(path, dpi=150)
    print(
        f"Drew {path}. The curves differ by {(curves[1] / curves[0] - 1).abs().max():.1e} at most."
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits_network.png")
