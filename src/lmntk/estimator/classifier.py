"""A classifier for scikit-learn: the tangent kernel of a language model, fitted to a handful of labelled texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from lmntk.attribution.suspects import FALSE_DISCOVERIES
from lmntk.engine.settings import Settings
from lmntk.errors import UserError
from lmntk.estimator.choice import Choice, choose_way
from lmntk.estimator.doubts import doubts_of, rows_of
from lmntk.estimator.encoders import Prompt, encoder_of, probe_features
from lmntk.estimator.explanation import Explanation, explanation_of
from lmntk.estimator.file_work import trained_of
from lmntk.estimator.given import check_folder
from lmntk.estimator.new_texts import say_lacking, with_training_texts
from lmntk.estimator.of_texts import OfTexts, words_of
from lmntk.estimator.predictors import directions_in, predictor_of
from lmntk.estimator.record import OF_OPTIONS, EstimatorInput, read_fit, write_fit
from lmntk.estimator.seen_texts import SeenTexts, one_at_a_time, shared_model, shared_texts
from lmntk.estimator.solved import Solved, plain_text
from lmntk.estimator.texts import LabelledTexts, classes_of
from lmntk.estimator.ways import Measured, way_of
from lmntk.prediction.files import LoadedPredictor, load_predictor
from lmntk.prediction.predictor import Predictor
from lmntk.prompts.encoding import encode_whole
from lmntk.solvers.inputs import Array
from lmntk.solvers.selection import predict_labels
from lmntk.system.memory import default_memory, parse_bytes
from lmntk.tasks.example import Example, examples_of

if TYPE_CHECKING:
    from lmntk.experiment.configuration import Fit


class TangentClassifier(OfTexts, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier: what training a language model to the end in the kernel regime would reach.

    Kernel ridge regression with K(x, x') = <grad f(x), grad f(x')>, f being the logits of a prompt's label words, or of a linear head
    that was drawn from ``seed``. The setting is chosen by held-out texts, on which ``held_out_score_`` is an estimate of the accuracy on
    new texts.

    Args:
        model: a Hugging Face model folder, a GGUF file, or a hub name.
        template: the prompt, such as ``"{a} It was {mask}."``; without one a linear head is put on the model.
        label_words: the word of each class, as a dict; or a list in the order of ``classes_``.
        formula: of the kernel; ``sgd``, and no other yet.
        mode: ``prompt``, ``head``, or ``auto``: with label words the better of both.
        classes: ``full``; ``contrasts``, the C - 1 that a softmax sees; ``shared``, one kernel for all; ``auto``: shared by more than six.
        regularization: lambda, relative to the kernel's norm; chosen by held-out texts where it is None.
        max_length: of a prompted text, in tokens.
        chat: put the prompt into the tokenizer's chat template.
        lora_rank: classify as LoRA of this rank would at its random start; without it, and ``train_only``, everything trains.
        lora_targets: what LoRA adapts, such as ``query+value``; all linear maps where it is None.
        lora_alpha: LoRA's scale is this over its rank.
        train_only: the parameters that train: ``biases``, ``norms``, ``attention``, ``top-2``, ...
        dtype: float32 or float64.
        device: where to compute.
        memory: that lmntk may take, such as ``"4GiB"``; by default half of the machine's.
        seed: of the folds and of the head.

    Attributes:
        classes_: the labels, sorted.
        held_out_score_: estimated accuracy on new texts; NaN with less than five texts of a class.
        standing_: the estimate with its interval, beside simple rivals on the same texts; None with a single text of a class.
        setting_: what was chosen.
        mode_: prompt or head.

    Texts are strings, or pairs of them. Estimators of one process, clones too, share the loaded model and the gradients of
    texts that were seen: ``cross_val_score`` and ``GridSearchCV`` differentiate each text once.

    Cost: of `fit` a forward and C backward passes a text that was not seen, and N^2 C^2 P products; of `predict` as much for
    few texts, else three forward passes each.

    Raises:
        UserError: texts that are none, a single class, or words that do not fit the classes.

    Example:
        >>> from lmntk import TangentClassifier
        >>> classifier = TangentClassifier("roberta-base", "{a} It was {mask}.", {"bad": "terrible", "good": "great"})
        >>> classifier.fit(texts, labels).predict(["a fine film"])  # doctest: +SKIP
        array(['good'], dtype='<U4')
    """

    def __init__(
        self,
        model: str = "",
        template: str | None = None,
        label_words: Mapping[Any, str] | Sequence[str] | None = None,
        *,
        formula: Literal["sgd"] = "sgd",
        mode: Literal["auto", "prompt", "head"] = "auto",
        classes: Literal["auto", "full", "contrasts", "shared"] = "auto",
        regularization: float | None = None,
        max_length: int | None = None,
        chat: bool = False,
        lora_rank: int | None = None,
        lora_targets: str | None = None,
        lora_alpha: float = 16.0,
        train_only: str | None = None,
        dtype: str = "float32",
        device: str = "auto",
        memory: str | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.template = template
        self.label_words = label_words
        self.formula = formula
        self.mode = mode
        self.classes = classes
        self.regularization = regularization
        self.max_length = max_length
        self.chat = chat
        self.lora_rank = lora_rank
        self.lora_targets = lora_targets
        self.lora_alpha = lora_alpha
        self.train_only = train_only
        self.dtype = dtype
        self.device = device
        self.memory = memory
        self.seed = seed

    _predictor: Predictor | None = None  # made when it is first needed
    _loaded: LoadedPredictor | None = None
    _folder: Path  # of a loaded one

    @one_at_a_time
    def fit(self, X: Any, y: Any) -> TangentClassifier:
        """Choose a setting by held-out texts, and solve for the coefficients of all."""
        options = self._options()
        examples = examples_of(X)
        self.classes_, numbers = classes_of(y, len(examples))
        names = tuple(str(label) for label in self.classes_)
        self.texts_ = LabelledTexts(
            tuple(
                Example(example.text_a, example.text_b, int(number))
                for example, number in zip(examples, numbers, strict=True)
            ),
            names,
        )
        self.texts_.check(least=1)
        prompt = Prompt(self.template, self._words(names), max_length=options.max_length, chat=options.chat)
        memory = default_memory() if options.memory is None else parse_bytes(options.memory)
        settings = Settings(memory=memory)
        pretrained = shared_model(options.model, options.dtype, options.device)
        seen = [
            shared_texts(
                way_of(
                    pretrained,
                    mode,
                    encoder_of(pretrained, mode, prompt),
                    names,
                    seed=options.seed,
                    sharing=options.classes,
                    trained=trained_of(options),
                ),
                settings,
            )
            for mode in prompt.modes(options.mode)
        ]
        self.texts_ = self.texts_.as_tokens(*(each.way.encoded(examples) for each in seen))
        measured = [
            Measured(
                each.way,
                each.way.encoded(examples),
                each.kernel(self.texts_.examples, self.texts_.examples),
                each.logits(self.texts_.examples),
            )
            for each in seen
        ]
        features = probe_features(
            pretrained, encoder_of(pretrained, "head", prompt), examples, settings.batch_size
        )
        self.choice_: Choice = choose_way(
            measured,
            self.texts_,
            features,
            seed=options.seed,
            regularization=None if self.regularization is None else float(self.regularization),
        )
        self._fitted = options, prompt, pretrained, _as_plain(self.get_params())
        self.seen_: SeenTexts = seen[measured.index(self.choice_.measured)]
        standing = self.choice_.standing
        self.standing_ = standing
        self.held_out_score_ = standing.accuracy if standing is not None and standing.is_estimate else np.nan
        self.setting_, self.mode_ = dict(self.choice_.setting), self.choice_.measured.way.mode
        self._predictor, self._loaded, self._sharpness = None, None, self.choice_.sharpness
        return self

    def decision_function(self, X: Any) -> Array:
        """Return decisions: [n] of two classes, positive for the second of ``classes_``; else [n, C]."""
        decisions = self._decisions(examples_of(X))
        if len(self.classes_) > 2:
            return decisions
        return decisions[:, -1] if decisions.shape[1] == 1 else decisions[:, 1] - decisions[:, 0]

    def predict(self, X: Any) -> Any:
        """Return the class of each text."""
        decisions = self._decisions(examples_of(X))
        return self.classes_[predict_labels(decisions)]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class [n, C], scaled to the held-out texts."""
        decisions = self._decisions(examples_of(X))
        decisions = decisions * self._sharpness
        if decisions.shape[1] == 1:
            decisions = np.concatenate([-decisions, decisions], axis=1) / 2
        shifted = np.exp(decisions - decisions.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    @one_at_a_time
    def explain(self, text: str | tuple[str, str]) -> Explanation:
        """Return a prediction as the sum of what each training text adds to it; see ``Explanation``.

        Example:
            >>> print(classifier.explain("a fine film"))  # doctest: +SKIP
            'a fine film' is good, +0.42 over bad (offset +0.10)
              +0.31  good: 'a great film'
        """
        check_is_fitted(self)
        (example,) = examples_of([text])
        if self._loaded is not None:
            solved = Solved.read(self._folder)
            new = with_training_texts(self._loaded, solved, [example], Settings())
            kernel, logits = new.cross, new.logits
        else:
            solved = Solved.of(self.choice_, self.texts_)
            kernel, logits = self.seen_.kernel(solved.examples, [example]), self.seen_.logits([example])
        parts = solved.parts(kernel, logits)
        return explanation_of(
            parts, plain_text(example), solved.plain, solved.record.numbers, self.classes_.tolist()
        )

    @one_at_a_time
    def suspects(self, false_discoveries: float = FALSE_DISCOVERIES) -> list[dict[str, Any]]:
        """Return the training labels, the most suspicious first, as ``lmntk audit`` ranks them: a row for each text.

        A row has ``row`` (the text's number, from 0), ``text``, ``label``, ``proposed``, ``probability``, ``margin``, ``self_influence``,
        ``flip_gain``, and ``named``: the label is among those that are probably wrong.

        Args:
            false_discoveries: the share of right labels that may be among those that are named.

        Raises:
            UserError: a class has too few texts for others to say anything of a label, or the classifier was read from a folder.

        Example:
            >>> [row["text"] for row in classifier.suspects() if row["named"]]  # doctest: +SKIP
            ['a dull film']
        """
        check_is_fitted(self)
        if self._loaded is not None:
            raise UserError(
                "suspects: a folder keeps no held-out decisions; fit the classifier again, or use `lmntk audit FILE`"
            )
        texts, classes = self.texts_, dict(zip(self.texts_.labels, self.classes_.tolist(), strict=True))
        rows = rows_of(texts, doubts_of(self.choice_, texts, false_discoveries))
        return [
            row
            | {"row": row["row"] - 1, "label": classes[row["label"]], "proposed": classes[row["proposed"]]}
            for row in rows
        ]

    @one_at_a_time
    def save(self, folder: str | Path) -> None:
        """Write the classifier to a folder, for ``load`` and for ``lmntk predict``; labels are words, numbers or truth values."""
        check_is_fitted(self, "choice_")
        (options, prompt, pretrained, parameters), choice, out = self._fitted, self.choice_, Path(folder)
        check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
        write_fit(
            options.model_copy(update={"out": out}),
            texts=self.texts_,
            prompt=prompt,
            choice=choice,
            directions=directions_in(choice, self.seen_.settings),
            pretrained=pretrained,
            given=EstimatorInput(self.classes_.tolist(), parameters),
        )

    @classmethod
    @one_at_a_time
    def load(
        cls, folder: str | Path, model: str | None = None, device: str | None = None
    ) -> TangentClassifier:
        """Return the classifier that ``save`` or ``lmntk fit`` wrote to a folder; it predicts and explains.

        Its parameters are those that it was fitted with.

        Args:
            folder: where it is.
            model: where the pre-trained model is now, if it has moved.
            device: where to compute, if it is to be elsewhere.
        """
        record = read_fit(Path(folder))
        parameters = {"model": record.model["name"], **record.parameters}
        parameters |= {name: given for name, given in (("model", model), ("device", device)) if given}
        words = parameters.get("label_words")
        if words and not isinstance(words[0], str):
            parameters["label_words"] = dict(words)
        classifier = cls(**parameters)
        loaded = load_predictor(Path(folder), model, classifier.device)
        classifier.classes_ = np.asarray(record.classes)
        classifier.mode_, classifier.setting_ = record.mode, dict(record.setting)
        standing = record.standing
        is_estimate = standing is not None and standing["is_estimate"]
        classifier.held_out_score_ = standing["accuracy"] if standing and is_estimate else np.nan
        classifier._loaded, classifier._sharpness, classifier._folder = loaded, record.sharpness, Path(folder)
        say_lacking(Path(folder), loaded.description)
        return classifier

    def _words(self, names: tuple[str, ...]) -> tuple[str, ...] | None:
        if self.label_words is None or self.mode == "head":
            if self.mode == "prompt" or (self.template is not None and self.mode != "head"):
                raise UserError("TangentClassifier: a prompt needs label_words, the word of each class")
            return None
        return words_of("TangentClassifier", self.template, self.label_words, names)

    def _options(self) -> Fit:
        """Return the parameters as ``lmntk fit`` has them, checked by the same rules."""
        from lmntk.experiment.configuration import Fit, from_flags

        if not self.model:
            raise UserError(
                "TangentClassifier: no model; give a Hugging Face model folder, a GGUF file, or a hub name"
            )
        if self.formula != "sgd":
            raise UserError(f"TangentClassifier: formula {self.formula!r} is not known; use sgd")
        if not isinstance(self.template, str | None):
            raise UserError(
                f"TangentClassifier: template {self.template!r} is no text; give one, or compare several with lmntk fit"
            )
        ridge = self.regularization
        if ridge is not None and not (isinstance(ridge, Real) and 0 <= float(ridge) < float("inf")):
            raise UserError(
                f"regularization: {ridge!r} is no finite number, zero or more; leave it out to have it chosen"
            )
        given = {name: getattr(self, name) for name in OF_OPTIONS}
        return from_flags(Fit, {"file": "", "model": os.fspath(self.model), **given})

    @one_at_a_time
    def _decisions(self, examples: list[Example]) -> Array:
        check_is_fitted(self)
        if self._loaded is not None:
            encoded = [encode_whole(self._loaded.encoder, example) for example in examples]
            return self._loaded.predictor.evaluate(encoded)[0]
        train, seen = self.texts_.examples, self.seen_
        if len(examples) - seen.knows(examples) <= max(len(train), seen.settings.batch_size):
            return self.choice_.decisions(seen.kernel(train, examples), seen.logits(examples))
        if self._predictor is None:
            self._predictor = predictor_of(self.choice_, seen.settings)
        encoded = [encode_whole(seen.way.encoder, example) for example in examples]
        return self._predictor.evaluate(encoded)[0]


def _as_plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON has them: numpy's scalars and paths are none of its kinds, and keys of a table are words there."""
    words = parameters["label_words"]
    if words is not None:
        by_class = isinstance(words, Mapping)
        words = [[_scalar(label), word] for label, word in words.items()] if by_class else list(words)
    plain = {name: _scalar(value) for name, value in parameters.items() if name != "label_words"}
    return plain | {"model": os.fspath(parameters["model"]), "label_words": words}


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
