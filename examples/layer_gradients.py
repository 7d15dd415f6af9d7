"""Gradients of a layer z = X w + b by hand: with sigma'(z) written out, simplified, and fused.

dC/dw = (1/n) X^T (dE/da sigma'(z))   the chain rule, every factor
dC/dw = (1/n) X^T (a - y)             what is left for cross-entropy
dC/dw = (1/n) X^T g                   g from one call, for any of the losses

python examples/layer_gradients.py
"""

import numpy as np

import crossent

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 5))  # 200 samples, 5 inputs
w, b = rng.normal(size=(5, 3)), rng.normal(size=3)  # 3 neurons
y = rng.integers(0, 2, size=(200, 3)).astype(float)
n = len(X)

z = X @ w + b
a = crossent.sigmoid(z)


def differences(cost, step=1e-6):
    """Return dC/dw by moving every weight a little up and down."""
    slopes = np.empty_like(w)
    for i in np.ndindex(*w.shape):
        moved = np.zeros_like(w)
        moved[i] = step
        slopes[i] = (cost(X @ (w + moved) + b, y) - cost(X @ (w - moved) + b, y)) / (2 * step)
    return slopes


def show(name, cost, dE_da, simplified):
    """Print how far the ways to dC/dw are from the first, which writes every factor out."""
    chain = X.T @ (dE_da * a * (1 - a)) / n
    _, g = cost.value_and_grad(z, y)  # reduction "batchmean" has divided by n
    print(name)
    if simplified is not None:
        print(
            f"  (1/n) X^T (a - y)     differs by {np.abs(X.T @ simplified / n - chain).max():.1e}"
        )
    print(f"  X^T g, fused          differs by {np.abs(X.T @ g - chain).max():.1e}")
    print(f"  finite differences    differ by {np.abs(differences(cost) - chain).max():.1e}")
    print(f"  dC/db = {g.sum(axis=0).round(6)}")


cross_entropy = crossent.BinaryCrossEntropy(reduction="batchmean")
show("cross-entropy", cross_entropy, (a - y) / (a * (1 - a)), a - y)
quadratic = crossent.QuadraticCost(reduction="batchmean")
show("quadratic cost: sigma' stays, nothing to simplify", quadratic, a - y, None)
