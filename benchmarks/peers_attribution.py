"""dattri, TRAK and kronfluence, as real packages in an environment of their own, on the model and texts that ``lds.py --dump`` wrote.

    python3 -m venv build/dattri/venv
    build/dattri/venv/bin/pip install torch==2.13.0 transformers==5.24.0 kronfluence==1.0.1
    build/dattri/venv/bin/pip install --no-deps dattri==0.3.0 traker==0.3.2       # dattri asks for packages of music, which stay unused
    build/dattri/venv/bin/pip install scipy tqdm pyyaml pretty_midi
    build/dattri/venv/bin/python benchmarks/peers_attribution.py lds/sst-2-peers [METHOD ...]

Each method's scores [N, M], larger where a training text raises the test text's margin more, and its seconds go to FOLDER/METHOD.npz,
which ``lds.py --report`` reads; of what does not run the last line of the error goes to FOLDER/METHOD.txt. The weights are those of
the training on all texts, attention is eager, the training loss is the cross-entropy, what is attributed the test text's margin.
dattri's regularization and kronfluence's damping are tried at the default and at two others; the best of the three is theirs.
Imports nothing of lmntk. What is there is not computed again.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForMaskedLM

PROJECTED, BLOCK = 512, 8  # TRAK's dimensions, and how many of them are drawn at a time
BATCH = 8


class Margins(nn.Module):
    """Logits of the classes: the label words' at the position that is read, of two classes their difference."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        super().__init__()
        network = AutoModelForMaskedLM.from_pretrained(
            folder / "model", dtype=torch.float32, attn_implementation="eager"
        )
        self.network, self.words, self.classes = network.eval(), told["label_ids"], told["classes"]

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor, read: Tensor) -> Tensor:
        """Return logits [n, c]. The mask goes in as what is added to the attention: vmap takes no other."""
        added = (1.0 - mask.float())[:, None, None, :].expand(-1, 1, ids.shape[1], -1) * torch.finfo().min
        hidden = self.network.base_model(ids, attention_mask=added, token_type_ids=types)[0]
        at = (torch.arange(ids.shape[1]) == read[:, None]).to(hidden.dtype)
        vocabulary = self.network.get_output_embeddings()
        transformed = self.network.cls.predictions.transform((hidden * at[..., None]).sum(-2))
        rows = transformed @ vocabulary.weight[self.words].T + vocabulary.bias[self.words]
        return rows[..., 1:] - rows[..., :1] if self.classes == 2 else rows


def loss_of(logits: Tensor, label: Tensor) -> Tensor:
    """Return each text's cross-entropy [n]."""
    if logits.shape[-1] == 1:
        return nn.functional.softplus((1 - 2 * label) * logits[..., 0])
    return torch.logsumexp(logits, -1) - logits.gather(-1, label[..., None])[..., 0]


def margin_of(logits: Tensor, label: Tensor) -> Tensor:
    """Return each text's margin [n], that of ``lds.py``."""
    if logits.shape[-1] == 1:
        return (2 * label - 1) * logits[..., 0]
    own = logits.gather(-1, label[..., None])[..., 0]
    return own - (logits.sum(-1) - own) / (logits.shape[-1] - 1)


class Side(Dataset):  # type: ignore[type-arg]
    """A side's texts, padded to the longest: ids, mask, types, position that is read, label."""

    def __init__(self, told: dict[str, Any], side: str) -> None:
        texts = told[side]
        longest = max(len(text["ids"]) for text in texts)
        self.rows = [
            tuple(
                torch.tensor(value)
                for value in (
                    text["ids"] + [told["pad_id"]] * (longest - len(text["ids"])),
                    [1] * len(text["ids"]) + [0] * (longest - len(text["ids"])),
                    (text["types"] or [0] * len(text["ids"])) + [0] * (longest - len(text["ids"])),
                    text["read"],
                    text["label"],
                )
            )
            for text in texts
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.rows[index]

    def loader(self, size: int = BATCH) -> Any:
        """Return the texts in order, in batches."""
        return DataLoader(self, batch_size=size, shuffle=False)


def dattri_task(model: Margins) -> Any:
    """Return the training loss, and minus the margin as what is attributed, so that a positive score helps."""
    from dattri.task import AttributionTask

    def value(function: Callable[..., Tensor], sign: float, parameters: Any, data: Any) -> Tensor:
        *inputs, label = (
            [part[None] for part in data] if data[0].dim() == 1 else data
        )  # vmap's have no batch axis
        logits = torch.func.functional_call(model, parameters, tuple(inputs))
        return sign * function(logits, label).mean()

    def training(parameters: Any, data: Any) -> Tensor:
        return value(loss_of, 1.0, parameters, data)

    def target(parameters: Any, data: Any) -> Tensor:
        return value(margin_of, -1.0, parameters, data)

    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return AttributionTask(loss_func=training, target_func=target, model=model, checkpoints=weights)


def dattri_gradients(model: Margins, train: Side, test: Side, *, normalized: bool) -> Tensor:
    """Return dattri's Grad-Dot or Grad-Cos."""
    from dattri.algorithm import tracin

    tracin.DEFAULT_PROJECTOR_KWARGS = None  # else it projects, whatever it is given
    attributor = tracin.TracInAttributor(dattri_task(model), torch.ones(1), normalized_grad=normalized)
    return attributor.attribute(train.loader(len(train)), test.loader(len(test) // 4 + 1))


def dattri_influence(model: Margins, train: Side, test: Side, *, regularization: float) -> Tensor:
    """Return dattri's influence function by conjugate gradients."""
    from dattri.algorithm.influence_function import IFAttributorCG

    attributor = IFAttributorCG(dattri_task(model), max_iter=10, regularization=regularization)
    attributor.cache(train.loader(len(train)))
    return attributor.attribute(train.loader(len(train)), test.loader())


def trak(model: Margins, train: Side, test: Side) -> Tensor:
    """Return TRAK of one model: iterative gradients, a projector whose matrix is drawn a few columns at a time."""
    from trak import TRAKer
    from trak.gradient_computers import IterativeGradientComputer
    from trak.modelout_functions import AbstractModelOutput
    from trak.projectors import BasicProjector, ProjectionType

    class LogOdds(AbstractModelOutput):
        """The log-odds of the label, and one less its probability."""

        def __init__(self) -> None:
            pass

        def get_output(self, network: Any, weights: Any, buffers: Any, *batch: Tensor) -> Tensor:
            *inputs, label = batch
            lost = loss_of(network(*inputs), label)
            return -lost - torch.log(-torch.expm1(-lost))

        def get_out_to_loss_grad(self, network: Any, weights: Any, buffers: Any, batch: Any) -> Tensor:
            *inputs, label = batch
            return (1 - torch.exp(-loss_of(network(*inputs), label))).detach()[:, None]

    size = sum(parameter.numel() for parameter in model.parameters())
    projector = BasicProjector(
        size, PROJECTED, 0, ProjectionType.rademacher, torch.device("cpu"), block_size=BLOCK
    )
    with tempfile.TemporaryDirectory() as scratch:
        traker = TRAKer(
            model=model,
            task=LogOdds(),
            train_set_size=len(train),
            save_dir=scratch,
            device="cpu",
            gradient_computer=IterativeGradientComputer,
            projector=projector,
            proj_dim=PROJECTED,
            use_half_precision=False,
            logging_level=logging.ERROR,
        )
        traker.load_checkpoint(model.state_dict(), model_id=0)
        for batch in train.loader(len(train)):  # the matrix is drawn anew for every batch: few are cheap
            traker.featurize(batch=batch, num_samples=len(batch[0]))
        traker.finalize_features()
        traker.start_scoring_checkpoint("test", model.state_dict(), model_id=0, num_targets=len(test))
        for batch in test.loader(len(test) // 2 + 1):
            traker.score(batch=batch, num_samples=len(batch[0]))
        return torch.as_tensor(np.asarray(traker.finalize_scores("test")))


def kronfluence_scores(
    model: Margins, train: Side, test: Side, *, strategy: str, damping: float | None
) -> Tensor:
    """Return kronfluence's scores of the linear layers, without the tied decoder."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from kronfluence.utils.dataset import DataLoaderKwargs

    tracked = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("decoder")
    ]

    class Losses(Task):
        """The training loss, and the margin."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            *inputs, label = batch
            logits = model(*inputs)
            if sample:
                with torch.no_grad():
                    folded = (
                        torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
                    )
                    label = torch.multinomial(torch.softmax(folded, 1), 1)[:, 0]
            return loss_of(logits, label).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            *inputs, label = batch
            return -margin_of(model(*inputs), label).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return tracked

        def get_attention_mask(self, batch: Any) -> Tensor:
            return batch[1]

    task = Losses()
    with tempfile.TemporaryDirectory() as scratch:
        analyzer = Analyzer(
            "peers",
            model=prepare_model(model, task),
            task=task,
            cpu=True,
            output_dir=scratch,
            disable_tqdm=True,
        )
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(num_workers=0))
        analyzer.fit_all_factors(
            strategy, train, per_device_batch_size=BATCH, factor_args=FactorArguments(strategy=strategy)
        )
        analyzer.compute_pairwise_scores(
            "scores",
            factors_name=strategy,
            query_dataset=test,
            train_dataset=train,
            per_device_query_batch_size=BATCH,
            per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=damping),
        )
        return analyzer.load_pairwise_scores("scores")["all_modules"].T


METHODS: dict[str, Callable[..., Tensor]] = {
    "dattri Grad-Dot": partial(dattri_gradients, normalized=False),
    "dattri Grad-Cos": partial(dattri_gradients, normalized=True),
    "kronfluence identity": partial(kronfluence_scores, strategy="identity", damping=None),
    "kronfluence EK-FAC": partial(kronfluence_scores, strategy="ekfac", damping=1e-8),  # its default
    **{
        f"kronfluence EK-FAC, damping {damping:g}": partial(
            kronfluence_scores, strategy="ekfac", damping=damping
        )
        for damping in (1e-4, 1e-2)
    },
    "TRAK": trak,
    **{
        f"dattri IF-CG, regularization {value:g}": partial(dattri_influence, regularization=value)
        for value in (0.0, 1e-2, 1.0)
    },
}


def main() -> None:
    """Score by every method that has no file yet."""
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    told = json.loads((folder / "texts.json").read_text(encoding="utf8"))
    train, test = Side(told, "train"), Side(told, "test")
    for name in sys.argv[2:] or METHODS:
        path = folder / f"{name}.npz"
        if path.exists():
            continue
        model, began = Margins(folder, told), time.time()
        try:
            scores = METHODS[name](model, train, test)
        except Exception as error:  # whatever a package raises is what there is to quote
            said = f"{type(error).__name__}: {error}".strip().splitlines()[-1]
            (folder / f"{name}.txt").write_text(said + "\n", encoding="utf8")
            print(f"{name}: does not run: {said}", flush=True)
            continue
        assert scores.shape == (len(train), len(test)), scores.shape
        np.savez(path, scores=scores.detach().double().numpy(), seconds=np.array(time.time() - began))
        print(f"{name}: {time.time() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
