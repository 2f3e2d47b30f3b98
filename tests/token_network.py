"""A network with maps, tokens and logits, to watch the layers of"""

from torch import nn

from difflow.features import LayerHooks


class Tokens(nn.Module):
    "A network with maps, tokens and logits"

    def __init__(self):
        super().__init__()
        self.maps, self.tokens, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 6), nn.Linear(6, 3)
        self.layers = ['maps', 'tokens', 'head']

    def forward(self, images):
        tokens = self.tokens(self.maps(images).relu().flatten(2).transpose(1, 2))
        return self.head(tokens.tanh().mean(1))


def kept(model, images):
    "All activations of the watched layers"
    found = {}
    with LayerHooks(model, model.layers, lambda name, a: found.update({name: a})) as hooked:
        logits = hooked(images)
    return found, logits['class']
