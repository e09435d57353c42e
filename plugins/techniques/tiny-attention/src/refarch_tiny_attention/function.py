"""The tiny-attention adapter's function.

Equation    M(x) = b_O + 1/H sum_h O_h softmax(q_h k_h^T / sqrt(D)) v_h, with z = LayerNorm(x) and
            q_h = Q_h z + b_Q, k_h = K_h z + b_K, v_h = V_h z + b_V          (Zhao et al. 2022, arXiv 2211.01979)
Symbols     Q, K, V = ``project`` [3, H, D, d_in], their biases = ``project_bias`` [3, H, D],
            O = ``output`` [d_out, H, D], b_O = ``output_bias`` [d_out]; D = ``head_dim``, H = ``heads``
Slots       attention: after it (sequential), or beside it (parallel)
Heads       a mixture of experts: their mean, so that in AveragedHeads the mean of their weights can stand for them
Start       as torch's linear layers, O and b_O times ``start``: nearly nothing changes
Parameters  (3 d_in + d_out) D H a layer; with biases 3 D H + d_out more, with the norm 2 d_in more

Norm, biases, start, dropout and the heads' mean are those of the authors' code (github.com/cindermond/tiny-attn). It
maps queries, keys, values and result once more within a head, linearly, which adds nothing; that is left out here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refarch import Attend, Function, SlotShape

APART = 1e-6
"""The spread of heads that start from one."""


class TinyAttention(Function):
    """Attention over the sequence with narrow heads.

    Args:
        shape: of the slot.
        head_dim: D.
        heads: H.
        norm: normalise what is read.
        bias: give the maps biases.
        start: factor of the output map at the start.
        dropout: probability of dropping an attention weight while training.
    """

    def __init__(
        self, shape: SlotShape, head_dim: int, heads: int, norm: bool, bias: bool, start: float, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(shape.d_in) if norm else nn.Identity()
        self.project = nn.Parameter(torch.empty(3, heads, head_dim, shape.d_in))
        self.project_bias = nn.Parameter(torch.empty(3, heads, head_dim)) if bias else None
        self.output = nn.Parameter(torch.empty(shape.d_out, heads, head_dim))
        self.output_bias = nn.Parameter(torch.empty(shape.d_out)) if bias else None
        inner, outer = shape.d_in**-0.5, start * head_dim**-0.5
        for name, parameter in self.named_parameters(recurse=False):
            bound = inner if name.startswith("project") else outer
            nn.init.uniform_(parameter, -bound, bound)

    def maps(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Q, K and V, their biases, and O."""
        return self.project, self.project_bias, self.output

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """x: [b, t, d_in] -> [b, t, d_out]."""
        project, bias, output = self.maps()
        read = F.linear(self.norm(x), project.flatten(0, 2), None if bias is None else bias.flatten())  # b t 3HD
        q, k, v = read.unflatten(-1, project.shape[:3]).unbind(-3)  # b t H D
        found = attend(q, k, v, self.dropout if self.training else 0.0)  # b t H D
        return F.linear(found.flatten(-2), output.flatten(1) / output.shape[1], self.output_bias)


class AveragedHeads(TinyAttention):
    """Heads that start nearly equal, train apart, and in evaluation are one head with the mean of their weights."""

    def __init__(self, shape: SlotShape, **options: float) -> None:
        super().__init__(shape, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            for _, parameter in self.heads():
                parameter.copy_(parameter[:, :1].clone())
            self.project.add_(torch.randn_like(self.project), alpha=APART)

    def heads(self) -> list[tuple[str, nn.Parameter]]:
        """What each head has of its own, along the second axis."""
        return [(name, each) for name, each in self.named_parameters(recurse=False) if name != "output_bias"]

    def maps(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """While training, those of all heads; else their mean, as one head."""
        if self.training:
            return super().maps()
        mean = {name: parameter.mean(1, keepdim=True) for name, parameter in self.heads()}
        return mean["project"], mean.get("project_bias"), mean["output"]

    def fold(self) -> None:
        """Keep the mean."""
        for name, parameter in self.heads():
            setattr(self, name, nn.Parameter(parameter.detach().mean(1, keepdim=True)))
