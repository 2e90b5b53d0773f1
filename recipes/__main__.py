"""``python -m recipes NAME``: the four papers' experiments as command lines."""

import sys
from collections.abc import Sequence
from importlib import import_module

RECIPES = {
    "demo": "torchclip beside torch on real digits, a minute",
    "tutorial": "a script ported, its norms and four clip policies, in pictures",
    "image": "image classification: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100",
    "finetune": "a pretrained model on another data set, AdaLoss beside its baselines",
    "imagenet": "ResNet-50 on ImageNet, on several GPUs",
    "control": "a policy for CartPole by REINFORCE, whose loss AdaLoss sees",
    "lm": "language models: AWD-LSTM on the Penn Treebank, WikiText-2 or a text",
    "text": "classification of texts by an LSTM: IMDB's reviews, or a folder of texts",
    "keras_cnn": "gRDA's Keras example, on TensorFlow, JAX or torch",
    "theory": "the setting of AdaLoss's theorems, and what is seen in it",
    "compare": "algorithms times seeds of one recipe: the papers' figures and tables",
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in RECIPES:
        status: int = import_module(f"recipes.{given[0]}").main(given[1:])
        return status
    listed = "\n".join(f"  {name:<10} {what}" for name, what in RECIPES.items())
    print(f"python -m recipes NAME [options]; --help after a name lists its options\n\n{listed}")
    if not given or given[0] in ("-h", "--help"):
        return 0
    print(f"\n{given[0]!r} is no recipe", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
