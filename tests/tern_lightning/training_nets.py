"""Small networks and data. It must not import tern_lightning: a plain process loads checkpoints with it."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import Logger
from torch import nn


class Net(pl.LightningModule):
    """Convolution, strided and transposed convolution with batch normalization, two linear layers."""

    def __init__(self, width: int = 6, optimizer: str = "adam", lr: float = 0.02):
        super().__init__()
        self.save_hyperparameters()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.hidden = nn.Linear(width * 25, 8)
        self.head = nn.Linear(8, 3)
        self.logits: list[torch.Tensor] = []

    def forward(self, x):
        return self.head(F.relu(self.hidden(self.body(F.relu(self.stem(x))).flatten(1))))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=False)
        return loss

    def on_validation_epoch_start(self):
        self.logits = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.logits.append(logits.detach())
        self.log("val_loss", F.cross_entropy(logits, batch[1]))

    test_step = validation_step

    def configure_optimizers(self):
        if self.hparams.optimizer == "adam":
            optimizer = torch.optim.Adam(self.parameters(), self.hparams.lr)
        else:
            optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.9, weight_decay=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)]


def samples(count: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    x = torch.randn(count, 1, 8, 8, generator=random)
    return x, (x.mean((1, 2, 3)) * 20).long().clamp(-1, 1) + 1


class Loader:
    """A loader that can go on in the middle of an epoch."""

    def __init__(self, batch: int = 8, count: int = 32):
        x, y = samples(count)
        self.batches = list(zip(x.split(batch), y.split(batch), strict=True))
        self.position = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        first = self.position if self.position < len(self.batches) else 0
        for index in range(first, len(self.batches)):
            self.position = index + 1
            yield self.batches[index]
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class Record(Logger):
    """Keeps everything that is logged: ``{(name, step): value}``."""

    def __init__(self):
        super().__init__()
        self.values = {}

    name = "record"
    version = "0"

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        self.values.update({(name, step): value for name, value in metrics.items()})


class Save(pl.callbacks.Checkpoint):
    """Saves after every training batch, after every validation and at every epoch's end."""

    def __init__(self, folder, weights_only=False):
        self.folder, self.weights_only = folder, weights_only

    def _save(self, trainer, name):
        trainer.save_checkpoint(self.folder / f"{name}.ckpt", self.weights_only)

    def on_train_batch_end(self, trainer, *args):
        self._save(trainer, f"step{trainer.global_step}")

    def on_validation_end(self, trainer, *args):
        self._save(trainer, f"val{trainer.current_epoch}")

    def on_train_epoch_end(self, trainer, *args):
        self._save(trainer, f"epoch{trainer.current_epoch}")
