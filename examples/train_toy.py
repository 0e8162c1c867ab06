"""A tiny decoder of sparse attention learns to copy: run it after `pip install .`"""

import torch
from torch import nn
from torch.nn import functional as F

import lace

PATTERN = "local(16) | strided(16)"  # the symbol 16 before is in sight, and what is near
SYMBOLS, PERIOD, SEQ_LEN, DIM, HEADS = 32, 16, 128, 64, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_attend, self.norm_mlp = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attend = lace.nn.SparseSelfAttention(DIM, HEADS, PATTERN, rotary=True)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm_attend(x))
        return x + self.mlp(self.norm_mlp(x))


def main() -> None:
    torch.manual_seed(0)
    print(lace.explain(PATTERN, SEQ_LEN, HEADS))
    model = nn.Sequential(
        nn.Embedding(SYMBOLS, DIM), Block(), Block(), nn.LayerNorm(DIM), nn.Linear(DIM, SYMBOLS)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(121):
        # A random line of PERIOD symbols, again and again: all but the first line can be known.
        symbols = torch.randint(SYMBOLS, (8, PERIOD)).repeat(1, SEQ_LEN // PERIOD)
        logits = model(symbols[:, :-1])
        losses = F.cross_entropy(logits.transpose(1, 2), symbols[:, 1:], reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        first, rest = losses[:, : PERIOD - 1].mean().item(), losses[:, PERIOD:].mean().item()
        if step % 30 == 0:
            print(f"step {step:3}  loss of the first line {first:.3f}, of the others {rest:.3f}")
    assert rest < 0.5 < 3 < first, "the model has not learnt to copy"


if __name__ == "__main__":
    main()
