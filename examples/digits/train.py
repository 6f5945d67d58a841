"""Train a small neural network to read handwritten digits (scikit-learn ships the 1,797 images).

Prints one JSON object per epoch: the runner collects them as the experiment's metadata. The model goes into the
`modeldir` artifact, the learning curve into the `plots` artifact.
"""

import argparse
import json
import time
from pathlib import Path

import joblib  # noqa: TID251 - it writes, and reads nothing
import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

mpl.use("Agg")
import matplotlib.pyplot as plt

MODELS, PLOTS = Path("../modeldir"), Path("../plots")


def main() -> None:
    options = read_options()
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images / 16, digits, test_size=0.25, random_state=7)
    print(f"{len(train_x)} images to learn from, {len(test_x)} to test with", flush=True)
    model = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=options.lr, random_state=7)
    history = []
    for epoch in range(1, options.epochs + 1):
        started = time.perf_counter()
        train_one_epoch(model, train_x, train_y, options.batch, epoch)
        figures = {
            "epoch": epoch,
            "loss": round(log_loss(train_y, model.predict_proba(train_x)), 4),
            "accuracy": round(float(model.score(test_x, test_y)), 4),
            "seconds": round(time.perf_counter() - started, 3),
        }
        history.append(figures)
        print(json.dumps({"training": figures}), flush=True)
    joblib.dump(model, MODELS / "digits.joblib")
    plot(history)
    print(json.dumps({"result": {"accuracy": history[-1]["accuracy"], "epochs": options.epochs}}), flush=True)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--batch", type=int, default=64)
    return parser.parse_args()


def train_one_epoch(model: MLPClassifier, x: np.ndarray, y: np.ndarray, batch: int, epoch: int) -> None:
    order = np.random.default_rng(epoch).permutation(len(x))
    for start in range(0, len(x), batch):
        chosen = order[start : start + batch]
        model.partial_fit(x[chosen], y[chosen], classes=range(10))


def plot(history: list[dict[str, float]]) -> None:
    epochs = [figures["epoch"] for figures in history]
    figure, left = plt.subplots(figsize=(7, 4))
    left.plot(epochs, [figures["loss"] for figures in history], color="tab:red", label="training loss")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    right = left.twinx()
    right.plot(epochs, [figures["accuracy"] for figures in history], color="tab:blue", label="test accuracy")
    right.set_ylabel("test accuracy")
    figure.legend(loc="center right", bbox_to_anchor=(0.88, 0.5))
    figure.suptitle("Handwritten digits")
    figure.savefig(PLOTS / "learning-curve.png", dpi=120)


if __name__ == "__main__":
    main()
