import pytest
import torch

from lmntk.prompts import EncodedText, collate, length_sorted_batches, members

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
    lengths = [10] * 9 + [12] * 3 + [13] * 2 + [40]
    assert [[lengths[i] for i in batch] for batch in length_sorted_batches(lengths, 32)] == [
        [10] * 9 + [12] * 3,
        [13, 13, 40],
    ]
    assert [len(batch) for batch in length_sorted_batches(list(range(1, 101)), 16)] == [
        8,
        8,
        8,
        8,
        9,
        11,
        14,
        16,
        16,
        2,
    ]


def test_a_decoders_ids_have_no_padding() -> None:
    texts = [EncodedText((5, 6), 1, None, (3, 9)), EncodedText((7, 8, 9), 1, None, (3, 4))]
    for side in ("left", "right"):
        batch = collate(texts, pad_id=0, padding_side=side, pad_to=5)
        assert batch["decoder_input_ids"].tolist() == [[3, 9], [3, 4]]
        assert batch["decoder_input_ids"].dtype == torch.int64
        assert batch["read_position"].tolist() == [1, 1]  # of the decoder, wherever the encoder's padding is
        assert batch["attention_mask"].sum(1).tolist() == [2, 3]
    assert "decoder_input_ids" not in collate([SHORT], pad_id=0)
    with pytest.raises(ValueError, match="some texts have decoder ids"):
        collate([*texts, SHORT], pad_id=0)
    with pytest.raises(ValueError, match="different lengths"):
        collate([*texts, EncodedText((5,), 0, None, (3,))], pad_id=0)


def test_several_templates() -> None:
    both = EncodedText((5,), 0, None, others=(SHORT,)), EncodedText((6, 7), 1, None, others=(LONG,))
    batch = collate(both, pad_id=0, padding_side="left")
    assert batch["input_ids"].tolist() == [[0, 5], [6, 7]]
    assert batch["1.input_ids"].tolist() == [[0, 5, 6], [7, 8, 9]]
    assert batch["1.read_position"].tolist() == [2, 0]
    first, second = members(batch)
    assert first.keys() == second.keys() == {"input_ids", "attention_mask", "read_position"}
    assert second["attention_mask"].equal(batch["1.attention_mask"])
    with pytest.raises(ValueError, match=r"texts of \[1, 2\] templates"):
        collate([*both, SHORT], pad_id=0)
    with pytest.raises(ValueError, match="pad_to 9 with several templates"):
        collate(both, pad_id=0, pad_to=9)
    with pytest.raises(ValueError, match="within an ensemble"):
        collate([EncodedText((5,), 0, None, others=(both[0],))], pad_id=0)


def test_members_stay_in_order_beyond_ten() -> None:
    many = EncodedText((1,), 0, None, others=tuple(EncodedText((2 + k,), 0, None) for k in range(11)))
    assert [member["input_ids"].item() for member in members(collate([many], pad_id=0))] == list(range(1, 13))


def test_length_counts_every_token() -> None:
    assert LONG.length == 3
    assert (
        EncodedText((1, 2), 0, None, (3,), (SHORT, EncodedText((4,), 0, None, (5, 6)))).length
        == 2 + 1 + 2 + 1 + 2
    )
