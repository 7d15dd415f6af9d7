"""Score more rows than memory holds, in batches of any size, and lose nothing by it.

A mean of means is wrong as soon as batches differ in size; sums are not. `LossSums` of parts, of
processes or of machines are added, and divided once and last.

    python examples/score_in_batches.py
"""

import numpy as np

import crossent

CLASSES = 50


def batches():
    """Yield scores and targets in batches of different sizes, a few targets to be ignored."""
    rng = np.random.default_rng(0)
    for rows in (4096, 4096, 4096, 17):
        targets = rng.integers(CLASSES, size=rows)
        scores = rng.normal(size=(rows, CLASSES)).astype(np.float32)
        right = 3.0 if rows > 1000 else 0.5  # the little last batch is harder
        scores[np.arange(rows), targets] += right
        targets[:: 10 if rows > 1000 else 2] = -100  # padding
        yield scores, targets


loss = crossent.CrossEntropy(label_smoothing=0.1)
parts = [loss.sums(scores, targets) for scores, targets in batches()]
whole = sum(parts)

print(f"rows        {whole.rows} decided, {whole.ignored} ignored")
print(f"mean        {whole.mean:.6f} nats = {whole.bits:.6f} bits")
print(f"perplexity  {whole.perplexity:.4f}")
print(f"accuracy    {whole.accuracy:.4f}")

at_once = loss(*(np.concatenate(each) for each in zip(*batches(), strict=True)))
print(f"all at once {at_once:.6f} nats")
print(f"mean of means would be {np.mean([part.mean for part in parts]):.6f}: wrong")
