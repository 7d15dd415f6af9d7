"""A small language model with a vocabulary of 2000 words, by torch's loss and by crossent's head.

Sentences come from a made-up language in which every word has few successors. The model looks at
the two words before: embeddings, one hidden layer, and a linear head over the vocabulary. Torch
holds the scores of all words of a batch; `crossent.linear_cross_entropy` those that 1 MB has room
for, and it leaves the padding out before the products. Same seed, so the curves are the same but
for rounding.

    python examples/language_model.py language_model.png
"""

import sys

import matplotlib as mpl
import torch

import crossent

mpl.use("Agg")
import matplotlib.pyplot as plt

WORDS, WIDTH, SENTENCES, LONGEST, STEPS = 2000, 32, 48, 20, 60
PADDING = -100


def sentences(generator, successors):
    """Return a batch of sentences (SENTENCES, LONGEST), padded behind their ends."""
    words = torch.empty(SENTENCES, LONGEST, dtype=torch.int64)
    words[:, 0] = torch.randint(WORDS, (SENTENCES,), generator=generator)
    for i in range(1, LONGEST):
        choice = torch.randint(successors.shape[1], (SENTENCES, 1), generator=generator)
        words[:, i] = successors[words[:, i - 1]].gather(1, choice)[:, 0]
    lengths = torch.randint(6, LONGEST + 1, (SENTENCES, 1), generator=generator)
    return words.masked_fill(torch.arange(LONGEST) >= lengths, PADDING)


class Model(torch.nn.Module):
    """Features of every position, and the weight and bias of the head."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.hidden = torch.nn.Linear(2 * WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, WORDS)

    def forward(self, words):
        before = self.words(words.clamp(min=0))
        pairs = torch.cat([before[:, :-1], before[:, 1:]], dim=-1)
        return torch.tanh(self.hidden(pairs))


def by_torch(features, head, targets):
    """Return the mean loss of all words, from all their scores."""
    scores = head(features)
    return torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def by_crossent(features, head, targets):
    """Return the same, a few words' scores at a time."""
    return crossent.linear_cross_entropy(
        features, head.weight, targets, bias=head.bias, memory_budget="1MB"
    )


def train(loss):
    """Return the loss of every step."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    successors = (WORDS * torch.rand(WORDS, 2, generator=generator) ** 3).long()  # most are common
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        words = sentences(generator, successors)
        value = loss(model(words[:, :-1]), model.head, words[:, 2:])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return torch.tensor(losses)


def main(path):
    """Train twice, print and draw."""
    curves = {"torch": train(by_torch), "crossent": train(by_crossent)}
    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3.5), sharey=True, layout="constrained")
    for axis, (name, losses) in zip(axes, curves.items(), strict=True):
        print(f"{name:9} loss {losses[0]:.4f} -> {losses[-1]:.4f} nats per word")
        axis.plot(losses)
        axis.set(title=f"{name}: ends at {losses[-1]:.3f}", xlabel="step", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean loss of the words, in nats")
    figure.savefig(path, dpi=150)
    difference = (curves["crossent"] / curves["torch"] - 1).abs().max()
    print(f"Drew {path}. The curves differ by {difference:.1e} at most.")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "language_model.png")
