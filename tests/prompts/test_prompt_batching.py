import pytest
import torch

from lmntk.prompts import EncodedText, collate, length_sorted_batches

SHORT, LONG = EncodedText((5, 6), 1, None), EncodedText((7, 8, 9), 0, None)


def test_padding_on_either_side() -> None:
    right = collate([SHORT, LONG], pad_id=1)
    assert right["input_ids"].tolist() == [[5, 6, 1], [7, 8, 9]]
    assert right["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert right["read_position"].tolist() == [1, 0]
    left = collate([SHORT, LONG], pad_id=1, padding_side="left", pad_to=4)
    assert left["input_ids"].tolist() == [[1, 1, 5, 6], [1, 7, 8, 9]]
    assert left["attention_mask"].tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
    assert left["read_position"].tolist() == [3, 1]
    assert {tensor.dtype for tensor in (*right.values(), *left.values())} == {torch.int64}
    assert "token_type_ids" not in right


def test_token_types_are_padded_with_zero() -> None:
    texts = [EncodedText((5, 6), 0, (1, 1)), EncodedText((5,), 0, (1,))]
    assert collate(texts, pad_id=9)["token_type_ids"].tolist() == [[1, 1], [1, 0]]
    with pytest.raises(ValueError, match="some texts"):
        collate([*texts, SHORT], pad_id=9)


def test_misuse() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_id=0)
    with pytest.raises(ValueError, match="pad_to 2 is less than"):
        collate([LONG], pad_id=0, pad_to=2)
    with pytest.raises(ValueError, match="neither"):
        collate([LONG], pad_id=0, padding_side="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size 0"):
        length_sorted_batches([1], 0)


def test_batches_hold_similar_lengths_once_each() -> None:
    assert length_sorted_batches([5, 2, 5, 3, 2], 2) == [[1, 4], [3, 0], [2]]
    assert length_sorted_batches([], 4) == []
