"""Features of texts whose inner products are their kernel, nearly: for more texts than a kernel between all of them has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lmntk.engine.batches import Capturer
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.settings import Settings
from lmntk.engine.sketched import sketch_within
from lmntk.errors import UserError
from lmntk.estimator.encoders import Prompt, encoder_of
from lmntk.estimator.of_texts import OfTexts, words_of
from lmntk.estimator.seen_texts import one_at_a_time, shared_model
from lmntk.estimator.texts import classes_of
from lmntk.estimator.ways import Way, way_of
from lmntk.kernels.sketches import Sketch
from lmntk.prompts.encoding import EncodedText
from lmntk.system.memory import default_memory, parse_bytes, shown_bytes
from lmntk.system.notices import say
from lmntk.tasks.example import examples_of

FEW = 2000  # texts below which the exact kernel is cheaper
SAMPLE = 64  # texts among which the probes of a tolerance are taken


class TangentFeatures(OfTexts, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer for scikit-learn: d numbers a text and output, a random map of its gradients.

    phi(x) = Pi grad f(x) with E<phi(x), phi(x')> = <grad f(x), grad f(x')>. Of two classes f is the difference of the logits; of C classes
    there are C - 1 contrasts, side by side and over sqrt(C - 1), so that the inner product is the kernel that the classes share. A linear
    classifier on them is kernel regression, for hundreds of thousands of texts.

    Args:
        model: a Hugging Face model folder, a GGUF file, or a hub name.
        template: the prompt; without one a linear head is put on the model, drawn from ``seed``.
        label_words: the word of each class, as a dict, or a list in the order of the sorted labels.
        dimension: d; without it the one that ``tolerance`` needs.
        tolerance: the relative error of the kernel, in the Frobenius norm; see ``sketch_within``.
        kind: ``sparse``, or ``kronecker``, which is cheaper a text and needs more dimensions; with a dimension also ``fastfood``.
        max_length: of a prompted text, in tokens.
        dtype: float32 or float64.
        device: where to compute.
        memory: that lmntk may take, such as ``"4GiB"``; by default half of the machine's.
        seed: of the random map, and of the head.

    Attributes:
        classes_: the labels, sorted.
        sketch_: the random map.
        n_features_: d times the outputs.

    Cost: a forward and C - 1 backward passes a text, and 2 P operations an output (sparse). Memory: the features, in float32, and a batch.

    Raises:
        UserError: no label words and no labels, a tolerance out of reach, or features that do not fit into the memory.

    Example:
        >>> from sklearn.linear_model import RidgeClassifier
        >>> from sklearn.pipeline import make_pipeline
        >>> words = {"bad": "terrible", "good": "great"}
        >>> features = TangentFeatures("roberta-base", "{a} It was {mask}.", words, dimension=4096)
        >>> make_pipeline(features, RidgeClassifier(1.0)).fit(texts, labels)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "",
        template: str | None = None,
        label_words: Mapping[Any, str] | Sequence[str] | None = None,
        *,
        dimension: int | None = None,
        tolerance: float = 0.1,
        kind: Literal["sparse", "fastfood", "kronecker"] = "sparse",
        max_length: int | None = None,
        dtype: str = "float32",
        device: str = "auto",
        memory: str | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.template = template
        self.label_words = label_words
        self.dimension = dimension
        self.tolerance = tolerance
        self.kind = kind
        self.max_length = max_length
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.seed = seed

    @one_at_a_time
    def fit(self, X: Any, y: Any = None) -> TangentFeatures:
        """Choose the random map; of the texts only a few are looked at, and of the labels which classes there are."""
        if not self.model:
            raise UserError(
                "TangentFeatures: no model; give a Hugging Face model folder, a GGUF file, or a hub name"
            )
        examples = examples_of(X)
        names = self._names(y, len(examples))
        words = None
        if self.label_words is not None:
            words = words_of("TangentFeatures", self.template, self.label_words, names)
        prompt = Prompt(self.template, words, max_length=self.max_length)
        memory = default_memory() if self.memory is None else parse_bytes(self.memory)
        self._settings = Settings(memory=memory)
        pretrained = shared_model(self.model, self.dtype, self.device)
        mode = "head" if words is None else "prompt"
        encoder = encoder_of(pretrained, mode, prompt)
        self._way: Way = way_of(pretrained, mode, encoder, names, seed=self.seed, sharing="contrasts")
        if len(examples) < FEW:
            say(
                f"{len(examples)} texts: their exact kernel is cheaper than features; TangentClassifier has it"
            )
        if self.dimension is not None:
            self.sketch_ = Sketch(self.kind, self.dimension, self.seed)
        else:
            chosen = np.linspace(0, len(examples) - 1, min(SAMPLE, len(examples))).round().astype(int)
            texts = {"texts": self._way.encoded([examples[number] for number in chosen])}
            work = KernelWork(
                self._way.model,
                texts,
                [("texts", "texts")],
                ["sgd"],
                self._way.trainable,
                self._way.pad_id,
            )
            self.sketch_ = sketch_within(work, self.kind, self.tolerance, self.seed, self._settings)
        self.n_features_ = self.sketch_.dimension * self._way.model.outputs
        return self

    @one_at_a_time
    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the features [N, (C - 1) d] of texts, float32; of a text they do not depend on the others."""
        check_is_fitted(self)
        examples = examples_of(X)
        size = 4 * len(examples) * self.n_features_
        if size > self._settings.memory:
            raise UserError(
                f"memory: {len(examples)} texts of {self.n_features_} features are {shown_bytes(size)}; "
                "transform fewer at a time, or give more, or a smaller dimension"
            )
        way = self._way
        texts: list[EncodedText] = way.encoded(examples)
        features = np.empty((len(texts), self.n_features_), np.float32)
        capturer = Capturer(
            way.model, way.trainable, way.pad_id, texts, self._settings.batch_size, gpu=self._settings.gpu
        )
        for chosen in capturer.batches(texts):
            start = 0
            for tangents in capturer.of_batch([texts[number] for number in chosen]):
                rows = chosen[start : start + len(tangents)]
                made = self.sketch_.features(tangents).flatten(1) / np.sqrt(way.model.outputs)
                features[rows] = made.cpu().numpy()
                start += len(tangents)
        return features

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return the features' names, tangent0, tangent1, ..."""
        check_is_fitted(self)
        return np.asarray([f"tangent{number}" for number in range(self.n_features_)], dtype=object)

    def _names(self, y: Any, count: int) -> tuple[str, ...]:
        if y is not None:
            self.classes_, _ = classes_of(y, count)
        elif isinstance(self.label_words, Mapping):
            self.classes_ = np.asarray(sorted(self.label_words))
        elif self.label_words is not None:
            self.classes_ = np.arange(len(self.label_words))
        else:
            raise UserError("TangentFeatures: give label_words, or labels, so that the classes are known")
        return tuple(str(label) for label in self.classes_)
