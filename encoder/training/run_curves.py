"""A run's curves as a picture and as TensorBoard scalars, each where its package is installed."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from encoder.files import written_whole

History = Sequence[Mapping[str, float]]

_PANELS = {
    "Loss": ("loss", "label_loss", "neighbour_loss", "valid_loss"),
    "Held out": ("valid_auroc", "valid_precision_at_5"),
    "Learning rate": ("lr",),
}


def has_tensorboard() -> bool:
    """Return whether TensorBoard's writer can be used here."""
    return importlib.util.find_spec("tensorboard") is not None


def save_curves(path: Path, history: History) -> None:
    """Write the curves of all epochs as a picture, three panels side by side."""
    from matplotlib.figure import Figure  # half a second, which only a run that draws should pay

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, (title, names) in zip(figure.subplots(1, 3), _PANELS.items(), strict=True):
        for name in names:
            axes.plot(epochs, [row[name] for row in history], marker=".", label=name.replace("_", " "))
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.legend(fontsize="small")
    with written_whole(path) as partial:
        figure.savefig(partial, dpi=110)


class Scalars:
    """TensorBoard scalars of one run; does nothing where TensorBoard is not installed."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        """Open the run's event file; what an earlier process wrote of `first_epoch` and after it is hidden."""
        self._writer = None
        if has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def add(self, row: Mapping[str, float]) -> None:
        """Write every figure of an epoch."""
        if self._writer is not None:
            for name, value in row.items():
                self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
