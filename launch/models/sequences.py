"""Character models: codes (N, T) to logits (N, T, vocabulary), each position seeing itself and those before it."""

from allgrad.autograd import nn
from allgrad.autograd.arrays import counted
from allgrad.autograd.engine import checkpoint, unwrap
from allgrad.ddp.errors import ConfigurationError


class LSTM(nn.Module):
    """An embedding, layers of long short-term memory, and a linear layer to the logits. Hochreiter et al. 1997.

    Dropout follows each layer.
    """

    def __init__(self, sizes, data, init, dropout):
        hidden, layers = sizes
        self.embedding = nn.Embedding(data.classes, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, data.classes)

    def __call__(self, x):
        return self.head(self.dropout(self.lstm(self.embedding(x))[0]))


class Transformer(nn.Module):
    """A decoder-only Transformer: learned positions, causal blocks that normalise first, gelu, four times the width.

    Radford et al. 2019 (GPT-2), whose standard deviation of 0.02 the embeddings have at first.
    """

    checkpoints = False  # whether blocks go by `ag.checkpoint`

    def __init__(self, sizes, data, init, dropout):
        width, heads, layers = sizes
        if width % heads:
            raise ConfigurationError(
                f"model transformer:{width},{heads},{layers}: a width of {width} cannot be cut into {heads} heads: "
                f"give a multiple of {heads}"
            )
        self.tokens, self.positions = nn.Embedding(data.classes, width), nn.Embedding(data.features[0], width)
        for table in (self.tokens, self.positions):
            table.weight.assign(0.02 * table.weight.data)
        self.dropout = nn.Dropout(dropout)
        options = {"dropout": dropout, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = [nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(layers)]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, data.classes)

    def __call__(self, x):
        y = self.dropout(self.tokens(x) + self.positions(counted(x.shape[1], unwrap(self.positions.weight))))
        for block in self.blocks:
            y = checkpoint(block, y, is_causal=True) if self.checkpoints else block(y, is_causal=True)
        return self.head(self.norm(y))
