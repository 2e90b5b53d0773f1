"""A small decoder of text, as GPT-2 is built: pre-norm blocks under a causal mask, with learned positions."""

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """int64 [batch, length] -> logits [batch, length, vocabulary], length at most ``context``.

    Two blocks of width 64 with four heads, without dropout: 112,512 parameters for 65 characters and a context of 64.
    Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3.
    """

    mask: Tensor  # float32 [context, context]

    def __init__(self, vocabulary: int, context: int, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.empty(context, width))
        for weight in (self.tokens.weight, self.positions):
            nn.init.normal_(weight, std=0.02)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        self.last = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", torch.full((context, context), -torch.inf).triu(1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        hidden = self.tokens(tokens) + self.positions[:length]
        logits: Tensor = self.last(self.blocks(hidden, self.mask[:length, :length], is_causal=True))
        return logits
