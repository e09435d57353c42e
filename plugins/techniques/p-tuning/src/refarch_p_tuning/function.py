"""P-tuning's function.

Equation    [H; X] in place of X, for embedded tokens X; while training, H = MLP(P) or MLP(LSTM(P))     (section 3)
Symbols     P = ``table`` [l, d], LSTM = ``lstm`` (two layers, both directions), MLP = ``mlp``; after folding
            H = ``tokens`` [l, d]
Slots       inputs; in an encoder-decoder, those of the encoder
Start       random
Parameters  l d, once; the encoder is dropped at saving
"""

import contextlib

import torch
from torch import Tensor, nn

from refarch import Function, SlotShape


class EncodedPrompt(Function):
    """Free tokens, made by an encoder while training.

    Args:
        shape: of the embedded input.
        length: l.
        encoder: ``mlp`` or ``lstm``.
        hidden: width of the encoder.
    """

    def __init__(self, shape: SlotShape, length: int, encoder: str, hidden: int) -> None:
        super().__init__()
        d = shape.d_out
        self.table: nn.Parameter | None = nn.Parameter(torch.randn(length, d))
        self.lstm: nn.LSTM | None = None
        self.tokens: nn.Parameter | None = None
        if encoder == "lstm":
            self.lstm = nn.LSTM(d, hidden, num_layers=2, bidirectional=True)
            layers = [nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, d)]
        else:
            middle = [nn.Linear(hidden, hidden), nn.ReLU()]
            layers = [nn.Linear(d, hidden), nn.ReLU(), *middle, nn.Linear(hidden, d)]
        self.mlp: nn.Sequential | None = nn.Sequential(*layers)

    def forward(self) -> Tensor:
        """The tokens, [l, d]."""
        if self.tokens is not None:
            return self.tokens
        assert self.table is not None and self.mlp is not None
        return self.mlp(self.table if self.lstm is None else self._states(self.lstm, self.table))

    @staticmethod
    def _states(lstm: nn.LSTM, table: Tensor) -> Tensor:
        """[l, d] -> [l, 2h], in the parameters' own precision: not every processor has an LSTM in autocast's."""
        # Autocast knows no meta device, on which shapes alone are asked for.
        with contextlib.nullcontext() if table.is_meta else torch.autocast(table.device.type, enabled=False):
            return lstm(table)[0]

    @torch.no_grad()
    def fold(self) -> None:
        """Keep the tokens alone."""
        if self.table is not None:
            self.tokens = nn.Parameter(self())
            self.table = self.lstm = self.mlp = None
