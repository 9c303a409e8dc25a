"""The linear probe is scikit-learn's logistic regression on the features of the position that is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_oracle import random_texts
from model_table import FAMILIES, TABLE
from sklearn.linear_model import LogisticRegression

from lmntk.errors import UserError
from lmntk.models.hidden_states import without_wrapper
from lmntk.models.logit_model import HeadModel
from lmntk.models.probe import frozen_features, linear_probe
from lmntk.prompts.batching import collate


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_in_the_order_of_the_texts(name):
    row = TABLE[name]
    network = row.build()
    network.train()
    texts = random_texts(row, [6, 3, 8, 5], 1)
    pad = int(network.config.pad_token_id or 0)
    found = frozen_features(network, [collate(texts[:3], pad), collate(texts[3:], pad)])
    assert network.training
    assert not found.requires_grad
    network.eval()
    for text, features in zip(texts, found, strict=True):
        batch = collate([text], pad)
        position = batch.pop("read_position")
        plain = without_wrapper(network)
        if row.reading == "decoder":
            hidden = plain(**batch, output_hidden_states=True).decoder_hidden_states[-1]
        else:
            hidden = plain.base_model(**batch).last_hidden_state
        tolerance = 1e-12 if row.tolerance < 1e-9 else 1e-5
        torch.testing.assert_close(features, hidden[0, position[0]], rtol=tolerance, atol=tolerance)


def points(classes, count=30):
    generator = torch.Generator().manual_seed(0)
    labels = [i % classes for i in range(count)]
    centres = torch.randn(classes, 4, generator=generator, dtype=torch.float64)
    return centres[labels] + torch.randn(count, 4, generator=generator, dtype=torch.float64), labels


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("classes", [2, 3])
def test_weights_are_those_of_scikit_learn(classes, dtype):
    features, labels = points(classes)
    features = features.to(dtype)
    head = linear_probe(features, labels, classes)
    assert head.weight.dtype == dtype
    fitted = LogisticRegression(C=1.0, max_iter=10_000).fit(features.double().numpy(), labels)
    logits = head(features).detach().numpy()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    if classes == 2:
        np.testing.assert_allclose(
            logits[:, 1] - logits[:, 0], fitted.decision_function(features.double().numpy()), atol=tolerance
        )
        assert torch.equal(head.weight[0], -head.weight[1])
    else:
        np.testing.assert_allclose(
            logits, fitted.decision_function(features.double().numpy()), atol=tolerance
        )
        np.testing.assert_allclose(head.weight.detach().numpy(), fitted.coef_, atol=tolerance)
    assert (logits.argmax(1) == fitted.predict(features.double().numpy())).all()
    assert np.mean(logits.argmax(1) == np.array(labels)) > 0.6


def test_the_probe_becomes_a_head():
    row = TABLE["bert"]
    network = row.build()
    texts = random_texts(row, [6, 3, 8, 5, 4, 7], 1)
    batch = collate(texts, 0)
    features = frozen_features(network, [batch])
    head = linear_probe(features, [0, 1, 2, 0, 1, 2], 3)
    torch.testing.assert_close(HeadModel(network, head)(batch), features @ head.weight.T + head.bias)


@pytest.mark.parametrize(
    ("labels", "classes", "missing"), [([0, 0, 2], 3, 1), ([1, 1, 1], 2, 0), ([0, 0, 0], 2, 1)]
)
def test_a_class_without_an_example(labels, classes, missing):
    with pytest.raises(UserError, match=f"class {missing} has no training example") as caught:
        linear_probe(torch.randn(3, 4), labels, classes)
    assert "\n" not in str(caught.value)
