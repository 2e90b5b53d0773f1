"""``keras_run.py FOLDER``: with the Keras backend of KERAS_BACKEND, what tests/frameworks/test_keras.py compares.

It reads gradients from FOLDER/gradients.npz and writes FOLDER/found.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

from torchclip.keras import GRDA

C, MU, RATE, DECAY_STEPS = 0.4, 0.6, 0.2, 10


def optimizer(**options: object) -> GRDA:
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, decay_steps=DECAY_STEPS, decay_rate=0.5)
    return GRDA(schedule, c=C, mu=MU, **options)


def fitted(folder: Path) -> dict[str, np.ndarray]:
    """A model trained in two parts, saved and loaded between them, and one trained without a break."""
    drawn = np.random.default_rng(0)
    inputs = drawn.normal(size=(64, 6)).astype("float32")
    labels = (inputs[:, 0] > 0).astype("int32")

    def model() -> keras.Model:
        keras.utils.set_random_seed(1)
        made = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2)])
        made.compile(optimizer(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return made

    def fit(made: keras.Model) -> list[float]:
        history = made.fit(inputs, labels, batch_size=16, epochs=5, shuffle=False, verbose=0)
        return list(history.history["loss"])

    whole = model()
    losses = fit(whole) + fit(whole)
    first = model()
    fit(first)
    first.save(folder / "model.keras")
    resumed = keras.saving.load_model(folder / "model.keras")
    later = fit(resumed)
    weights = np.concatenate([np.ravel(each) for each in whole.get_weights()])
    return {
        "losses": np.array(losses),
        "losses_resumed": np.array(later),
        "sparsity": np.array([whole.optimizer.sparsity(), float((weights == 0).mean())]),
    }


def main(folder: Path) -> None:
    given = np.load(folder / "gradients.npz")
    variable, half = keras.Variable(given["start"]), keras.Variable(given["start"], dtype="float16")
    accumulated = keras.Variable(given["start"])
    plain, of_half, of_parts = optimizer(), optimizer(), optimizer(gradient_accumulation_steps=2)
    path = []
    for gradient in given["gradients"]:
        value = keras.ops.convert_to_tensor(gradient)
        plain.apply([value], [variable])
        of_half.apply([keras.ops.cast(value, "float16")], [half])
        path.append(keras.ops.convert_to_numpy(variable))
        for _ in range(2):
            of_parts.apply([value], [accumulated])
    np.savez(
        folder / "found.npz",
        path=np.stack(path),
        half=keras.ops.convert_to_numpy(half).astype("float32"),
        accumulated=keras.ops.convert_to_numpy(accumulated),
        **fitted(folder),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
