"""The loss of a causal language model with logits only where a token counts.

Of an agent's conversation, a fifth of the tokens or so count. The head of a model with a large vocabulary costs as much
as many layers, so the others are left out; and logits are made, used and forgotten in tiles. The last layer is asked
for those tokens alone as well, behind its attention: what it makes of the others, nothing reads.

Legend: B rows, T tokens of the longest, N tokens that count, H hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import Module, functional

from honed.worker.rows import IGNORED

TILE: Final = 1 << 24
"""Logits at a time: 64 MiB in float32, and about three times as much with what their loss needs."""

Head = Callable[[Tensor], Tensor]


def summed_loss(model: Any, input_ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """The negative log-likelihood of all tokens that count, nats; rows are padded on the right.

    Without an attention mask: under causal attention nothing sees the padding behind it. No gradient goes to the
    model's head, which LoRA leaves frozen.

    Args:
        model: of transformers, without or with PEFT around it.
        input_ids_BT: int64.
        labels_BT: int64, -100 where a token does not count.
    """
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = causal_lm.base_model
    # A token is predicted from the one before it.
    read_BT = functional.pad(labels_BT[:, 1:] != IGNORED, (0, 1))
    with last_layer_only_at(read_BT, backbone):
        hidden_BTH = backbone(input_ids=input_ids_BT, use_cache=False).last_hidden_state
    targets_N = labels_BT[:, 1:][read_BT[:, :-1]]
    apply = cast("Callable[[Tensor, Tensor, Head], Tensor]", _SummedLoss.apply)
    return apply(hidden_BTH[read_BT], targets_N, head_of(causal_lm))


@contextmanager
def last_layer_only_at(read_BT: Tensor, backbone: Any) -> Iterator[None]:
    """In the body the last layer's parts behind attention see only some positions; at the others they give zeros.

    Those parts work on each position by itself, so that nothing changes where they are read. Not where activations are
    checkpointed: the layer is computed anew on the way back, when this is over.
    """
    layer = backbone.layers[-1]
    if getattr(layer, "gradient_checkpointing", False):
        yield
        return
    attention = getattr(layer, "self_attn", None)
    parts = (
        getattr(attention, "o_proj", None),
        getattr(layer, "mlp", None) or getattr(layer, "feed_forward", None),
    )
    with ExitStack() as hooks:
        for part in filter(None, parts):
            hooks.enter_context(_only_at(read_BT, part))
        yield


@contextmanager
def _only_at(read_BT: Tensor, part: Module) -> Iterator[None]:
    def select(module: Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0][read_BT], *given[1:])

    def put_back(module: Module, given: tuple[Tensor, ...], made_NH: Tensor) -> Tensor:
        whole_BTH = made_NH.new_zeros(*read_BT.shape, made_NH.shape[-1])
        return whole_BTH.masked_scatter(read_BT.unsqueeze(-1), made_NH)

    hooks = part.register_forward_pre_hook(select), part.register_forward_hook(put_back)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def head_of(causal_lm: Any) -> Head:
    """From the last hidden states to the logits, as the model's own `forward` ends.

    Granite divides them, Gemma bends them towards a limit; no other architecture of `architectures` does anything.
    """
    linear = causal_lm.get_output_embeddings()
    divisor = getattr(causal_lm.config, "logits_scaling", None)
    limit = getattr(causal_lm.config, "final_logit_softcapping", None)

    def head(hidden_NH: Tensor) -> Tensor:
        logits_NV = linear(hidden_NH)
        if divisor is not None:
            logits_NV = logits_NV / divisor
        if limit is not None:
            logits_NV = torch.tanh(logits_NV / limit) * limit
        return cast("Tensor", logits_NV)

    return head


class _SummedLoss(torch.autograd.Function):
    """Takes the gradient with the loss, tile by tile, so that no logits are kept or made twice."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, targets_N: Tensor, head: Head) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient_NH = torch.empty_like(hidden_NH) if wants_gradient else None
        total = hidden_NH.new_zeros((), dtype=torch.float32)
        rows = max(1, TILE // head(hidden_NH[:1]).shape[-1])
        for start in range(0, len(targets_N), rows):
            tile = slice(start, start + rows)
            part = hidden_NH[tile].detach().requires_grad_(wants_gradient)
            with torch.set_grad_enabled(wants_gradient):
                loss = functional.cross_entropy(
                    head(part).float(), targets_N[tile], reduction="sum"
                )
            total += loss.detach()
            if gradient_NH is not None:
                (gradient_NH[tile],) = torch.autograd.grad(loss, part)
        ctx.gradient_NH = gradient_NH
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient_NH.mul_(gradients[0]), None, None
