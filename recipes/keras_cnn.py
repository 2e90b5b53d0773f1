"""``python -m recipes keras_cnn``: gRDA's Keras example, the six-layer CNN on CIFAR-10, in Keras 3.

The network, batches of 10, the rate, c and mu are those of the authors' ``cifar10_cnn.py``, whose backend was PlaidML.
Keras's backend is the environment's ``KERAS_BACKEND``: tensorflow, jax or torch.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from recipes.command import positive
from recipes.data import RecipeDataError, package
from recipes.data.images import Images, load_images
from recipes.run_folder import RunFolder

_KERAS = "pip install 'torchclip[keras]' and TensorFlow, JAX or torch, which KERAS_BACKEND names"
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")

Row = dict[str, Any]


def make_model(keras: Any, shape: tuple[int, int, int], classes: int) -> Any:
    """The four convolutions and two dense layers of Keras's own example; ``shape`` is (height, width, channels)."""
    layers = keras.layers
    parts = [keras.Input(shape)]
    for channels in (32, 64):
        parts += [layers.Conv2D(channels, 3, padding="same", activation="relu")]
        parts += [layers.Conv2D(channels, 3, activation="relu"), layers.MaxPooling2D(2), layers.Dropout(0.25)]
    parts += [layers.Flatten(), layers.Dense(512, "relu"), layers.Dropout(0.5), layers.Dense(classes, "softmax")]
    return keras.Sequential(parts)


def arrays(images: Images) -> tuple[np.ndarray[Any, Any], ...]:
    """Training images and labels, then those for testing: float32 [n, height, width, channels] in [0, 1], int64 [n]."""
    x, x_test = (one.permute(0, 2, 3, 1).float().numpy() / 255 for one in (images.train_images, images.test_images))
    return x, images.train_labels.numpy(), x_test, images.test_labels.numpy()


def train(options: argparse.Namespace, images: Images, c: float, path: Path) -> Iterator[Row]:
    """A row for each epoch; the model is at ``path`` in the end. Raises RecipeDataError where Keras is missing."""
    keras, ours = (package(name, _KERAS) for name in ("keras", "torchclip.keras"))
    keras.utils.set_random_seed(options.seed)
    channels, height, width = images.shape
    model = make_model(keras, (height, width, channels), images.classes)
    optimizer = ours.GRDA(learning_rate=options.lr, c=c, mu=options.mu)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y, x_test, y_test = arrays(images)
    for epoch in range(1, options.epochs + 1):
        fitted = model.fit(x, y, batch_size=options.batch_size, epochs=1, verbose=0).history
        loss, accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)
        metrics = {"train_loss": fitted["loss"][0], "test_loss": loss, "test_accuracy": accuracy}
        weights = [float(np.mean(layer.get_weights()[0] == 0)) for layer in model.layers if layer.get_weights()]
        zeros = {"sparsity": optimizer.sparsity(), "sparsity_of_weights": weights}
        yield {"kind": "epoch", "c": c, "epoch": epoch, **metrics, **zeros}
    model.save(path)


def draw(runs: Mapping[float, Sequence[Row]], path: Path) -> None:
    """Exact zeros, accuracy and loss over the epochs, a line for each c."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    panels = (
        ("sparsity", "parameters that are exactly 0 (%)", 100),
        ("test_accuracy", "test accuracy (%)", 100),
        ("train_loss", "training loss", 1),
    )
    for panel, (key, label, factor) in zip(axes, panels, strict=True):
        for index, (c, rows) in enumerate(runs.items()):
            name = f"gRDA, c = {c:g}" if c else "c = 0: SGD"
            values = [factor * row[key] for row in rows]
            panel.plot([row["epoch"] for row in rows], values, color=_COLORS[index % len(_COLORS)], label=name)
        panel.set(xlabel="epoch", ylabel=label)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(runs: Mapping[float, Sequence[Row]]) -> str:
    """The last epoch of each run."""
    lines = ["| c | test accuracy, % | training loss | exact zeros, % | of the six weights, input to output, % |"]
    lines.append("|---" * 5 + "|")
    for c, rows in runs.items():
        last = rows[-1]
        weights = ", ".join(f"{100 * share:.0f}" for share in last["sparsity_of_weights"])
        numbers = f"{100 * last['test_accuracy']:.1f} | {last['train_loss']:.3f} | {100 * last['sparsity']:.1f}"
        lines.append(f"| {c:g} | {numbers} | {weights} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes keras_cnn", description="gRDA's Keras example.")
    add = parser.add_argument
    add("--dataset", default="cifar10", metavar="NAME", help="as of the recipe image (default cifar10)")
    add("--epochs", type=positive, default=40, help="default 40")
    add("-b", "--batch-size", type=positive, default=10, help="default 10")
    add("--lr", type=float, default=0.005, help="default 0.005, constant")
    add("--c", type=float, nargs="+", default=[0.0, 0.001], help="a run for each (default 0 0.001)")
    add("--mu", type=float, default=0.5, help="default 0.5")
    add("--seed", type=partial(positive, least=0), default=0, help="of weights, batches and dropout (default 0)")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default data)")
    add("--result-dir", type=Path, default=Path("results/keras_cnn"), metavar="DIR", help="default results/keras_cnn")
    options = parser.parse_args(arguments)
    folder = RunFolder(options.result_dir)
    runs: dict[float, list[Row]] = {}
    try:
        for c in options.c:  # what is wrong with them is told before data are read
            package("torchclip.keras", _KERAS).GRDA(learning_rate=options.lr, c=c, mu=options.mu)
        images = load_images(options.dataset, options.data_dir)
        folder.restart()
        for c in options.c:
            runs[c] = []
            for row in train(options, images, c, options.result_dir / f"c{c:g}.keras"):
                runs[c].append(row)
                folder.append(row)
                zeros, accuracy = f"{row['sparsity']:.1%} exact zeros", f"test accuracy {row['test_accuracy']:.1%}"
                print(f"c {c:g}, epoch {row['epoch']}: {zeros}, {accuracy}", flush=True)
    except (RecipeDataError, ValueError) as error:
        print(f"python -m recipes keras_cnn: {error}", file=sys.stderr)
        return 2
    draw(runs, options.result_dir / "figure.png")
    (options.result_dir / "table.md").write_text(table(runs))
    print(f"\n{table(runs)}\n{options.result_dir}: log.jsonl, table.md, figure.png and the models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
