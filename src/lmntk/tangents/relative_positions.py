"""Tables of relative positions, which networks use without a batch axis: every example gets its own.

T5 and its like look a bias up once for the whole batch: what they hand on is expanded over the examples.

DeBERTa (v2, v3) has a table E [2 k, i] of distances from -k to k, normalised, which every attention layer
projects and compares with its queries and keys: for a query at t and a key at s

    score[t, s] = q_t . k_s + q_t . (W_k E)[k + t - s] + k_s . (W_q E)[k - t + s]    up to scales, biases

Every example gets the same rows, E[n, r, i], as the encoder hands them on; the norm and the projections see
ordinary inputs with a batch axis, and their rules apply. Only rows in reach of the batch's longest text take
part, two for each of its tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmntk.errors import ModelError
from lmntk.tangents.watching import Record, Watch


def is_bias_owner(module: nn.Module) -> bool:
    """Return whether an attention computes a bias from a table of relative positions (T5 and its like)."""
    return callable(getattr(module, "compute_bias", None)) and isinstance(
        getattr(module, "relative_attention_bias", None), nn.Embedding
    )


def is_disentangled(module: nn.Module) -> bool:
    """Return whether an attention projects a table of relative positions, [1, r, i] (DeBERTa)."""
    numbers = (getattr(module, name, None) for name in ("num_attention_heads", "pos_ebd_size"))
    return callable(getattr(module, "disentangled_attention_bias", None)) and all(
        isinstance(number, int) for number in numbers
    )


def is_distance_owner(module: nn.Module) -> bool:
    """Return whether an encoder owns the table of such attentions."""
    has_table = callable(getattr(module, "get_rel_embedding", None)) and isinstance(
        getattr(module, "rel_embeddings", None), nn.Embedding
    )
    return has_table and any(is_disentangled(each) for each in module.modules())


@contextmanager
def relative_positions_watched(
    model: nn.Module, watch: Watch, counted: Collection[nn.Parameter]
) -> Iterator[None]:
    """Give relative positions a batch axis, and keep the records of tables that count, while the body runs."""
    with ExitStack() as stack:
        module: Any
        for module in model.modules():
            if is_bias_owner(module):
                if module.relative_attention_bias.weight in counted:
                    _watch_bias(module, watch, stack)
            elif is_distance_owner(module):
                _watch_distances(module, watch, stack, module.rel_embeddings.weight in counted)
            elif is_disentangled(module):
                _watch_disentangled(module, watch, stack)
        yield


def _replace(owner: Any, name: str, value: Any, stack: ExitStack) -> None:
    """Set an attribute of the instance until the stack unwinds."""
    own = vars(owner)
    if name in own:
        stack.callback(own.__setitem__, name, own[name])
    else:
        stack.callback(own.pop, name)
    own[name] = value


def _watch_bias(module: Any, watch: Watch, stack: ExitStack) -> None:
    """Make ``compute_bias`` hand its bias on for every example, so that the gradient keeps the batch axis."""
    table = module.relative_attention_bias
    original = module.compute_bias

    def compute_bias(*arguments: Any, **keywords: Any) -> Tensor:
        buckets: list[Tensor] = []
        handle = table.register_forward_hook(lambda _, ids, output: buckets.append(ids[0]))
        try:
            bias = original(*arguments, **keywords)
        finally:
            handle.remove()
        bias = bias.expand(watch.count, *bias.shape[1:])
        record = Record(table, (buckets[0],), {}, [bias.detach()], is_relative_positions=True)
        return watch.add(record, [bias])[0]

    _replace(module, "compute_bias", compute_bias, stack)


def _watch_distances(encoder: Any, watch: Watch, stack: ExitStack, counts: bool) -> None:
    """Make ``get_rel_embedding`` hand on rows [n, r, i], as if every example had looked them up."""
    table = encoder.rel_embeddings
    original = encoder.get_rel_embedding
    positions: Any = getattr(encoder, "get_rel_pos", None)
    half = table.num_embeddings // 2
    can_narrow = callable(positions) and {
        m.pos_ebd_size for m in encoder.modules() if is_disentangled(m)
    } == {half}
    reach = half  # distances d with |d| < reach occur

    def get_rel_pos(hidden_states: Any, query_states: Any = None, relative_pos: Any = None) -> Any:
        nonlocal reach
        distances = positions(hidden_states, query_states, relative_pos)
        known = (
            can_narrow and query_states is None and isinstance(distances, Tensor) and distances.numel() > 0
        )
        reach = min(half, int(distances.abs().max()) + 1) if known else half
        return distances

    def get_rel_embedding() -> Any:
        span = (half - reach, half + reach) if reach < half else (0, table.num_embeddings)
        rows = torch.arange(*span)
        # a short text's rows are the first of a long one's
        outwards = torch.argsort((rows - half).abs(), stable=True)
        ids = rows[outwards].to(table.weight.device)
        values = table.weight[ids].expand(watch.count, -1, -1)
        if counts:
            record = Record(table, (ids.expand(watch.count, -1),), {}, [values.detach()])
            (values,) = watch.add(record, [values])
        handed = values.index_select(1, torch.argsort(outwards).to(ids.device))
        with ExitStack() as hooks:
            for child in encoder.children():
                hooks.callback(child.register_forward_pre_hook(_swapping(table.weight, handed)).remove)
            all_rows = original()
        return handed if all_rows is table.weight else all_rows

    _replace(encoder, "get_rel_embedding", get_rel_embedding, stack)
    if callable(positions):
        _replace(encoder, "get_rel_pos", get_rel_pos, stack)


def _swapping(old: Tensor, new: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda _, arguments: tuple(new if each is old else each for each in arguments)


def _watch_disentangled(module: Any, watch: Watch, stack: ExitStack) -> None:
    """Make ``disentangled_attention_bias`` use every example's own rows [n, r, i], in one call for the batch.

    The original projects one table for all its heads and repeats it for every example. It is told that all
    examples' heads are heads of one example, [n h, t, i / h] as they lie, and gets their projections side by
    side, [1, r, n o]. Of a table that was narrowed to r rows it is told that k = r / 2.
    """
    original = module.disentangled_attention_bias

    def bias(
        query_layer: Tensor, key_layer: Tensor, relative_pos: Any, rel_embeddings: Tensor, scale_factor: Any
    ) -> Any:
        heads, count = module.num_attention_heads, watch.count
        if rel_embeddings.dim() != 3:  # not from an encoder that is watched
            return original(query_layer, key_layer, relative_pos, rel_embeddings, scale_factor)
        texts = query_layer.shape[0] // heads
        reach = min(module.pos_ebd_size, rel_embeddings.shape[1] // 2)
        if (
            texts % count
            or rel_embeddings.shape[0] != count
            or (relative_pos is None and reach < module.pos_ebd_size)
        ):
            raise ModelError(f"{type(module).__name__} has lost the batch axis of its relative positions")
        rows = rel_embeddings[:, : 2 * reach]

        def side_by_side(_: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            several = output.unsqueeze(1).expand(-1, texts // count, -1, -1)  # (n, texts of an example, r, o)
            return several.permute(2, 0, 1, 3).reshape(1, output.shape[1], -1)

        with ExitStack() as changes:
            _replace(module, "num_attention_heads", texts * heads, changes)
            _replace(module, "pos_ebd_size", reach, changes)
            for child in module.children():
                changes.callback(child.register_forward_pre_hook(lambda *_: (rows,)).remove)
                changes.callback(child.register_forward_hook(side_by_side).remove)
                if _is_plain(child):
                    _replace(child, "forward", _once(child), changes)
            return original(query_layer, key_layer, relative_pos, rows[0], scale_factor)

    _replace(module, "disentangled_attention_bias", bias, stack)


def _is_plain(module: nn.Module) -> bool:
    """Return whether a layer is torch's own linear map, wrapped by nobody and asking for no gradient."""
    return (
        type(module) is nn.Linear
        and "forward" not in vars(module)
        and not any(each.requires_grad for each in module.parameters())
    )


def _once(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    apply: Any = _SharedRows.apply
    return lambda rows: apply(rows, linear.weight, linear.bias)


class _SharedRows(torch.autograd.Function):
    """W x_t + b of rows [n, r, i] that all examples share: computed once, each with its own gradient g W."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return [n, r, o], a view of one example's."""
        ctx.save_for_backward(weight)
        ctx.dtype = rows.dtype
        return nn.functional.linear(rows[:1], weight, bias).expand(rows.shape[0], -1, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradient [n, r, i] at the rows; weight and bias ask for none."""
        (weight,) = ctx.saved_tensors
        gradient = gradients[0]  # under autocast in less than the weight's precision
        return (gradient @ weight.to(gradient.dtype)).to(ctx.dtype), None, None
