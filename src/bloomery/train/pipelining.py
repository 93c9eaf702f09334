"""A model whose layers are on several processes, one run after another: torch.distributed.pipelining's stages and schedules.

Every process has the same rows. The first place embeds the tokens, each sends its stream to the next, and the last one
computes the loss, so only there are there numbers to add up. Tied embeddings are kept on the first and on the last place.

Shapes: B rows, T tokens, D model.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar  # Any: a batch is a dataclass of some stage; schedules take whatever a stage's forward takes

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

from bloomery.core import dist
from bloomery.model.transformer import Transformer, make_context
from bloomery.objectives.terms import LossTerms
from bloomery.train.layout import Layout

B = TypeVar("B")


class Pipelined(Transformer):
    """A transformer of which only this process's layers are here. `hidden_states` is what the pipeline has brought to its end."""

    def __init__(self, whole: Transformer, layout: Layout, *, interleaved: bool, group: torch_dist.ProcessGroup) -> None:
        nn.Module.__init__(self)
        # What is set from outside (compute_dtype and the like) stays as it is.
        self.__dict__.update({name: value for name, value in vars(whole).items() if not name.startswith("_")})
        self.model, self.lm_head, self.score = whole.model, whole.lm_head, whole.score
        self.layout, self.interleaved, self.group = layout, interleaved, group
        place = torch_dist.get_rank(group)
        self.is_first, self.is_last = place == 0, place == layout.pipeline - 1
        self.runs = [_Run(self, place + turn * layout.pipeline) for turn in range(layout.virtual_stages)]
        self.schedules: dict[tuple[int, ...], Any] = {}
        self.arrived: Tensor | None = None
        kept = {layer for run in self.runs for layer in run.layers}
        for number in range(self.config.num_layers):
            if number not in kept:
                self.model.layers[number] = nn.Identity()
        is_tied = self.lm_head is None and self.score is None
        if is_tied and (self.is_first or self.is_last):
            setattr(self.model.embed_tokens.weight, "is_tied", True)  # noqa: B010  (read by Parallel; mypy knows no such attribute)
        if not (self.is_first or (is_tied and self.is_last)):
            self.model.embed_tokens = nn.Identity()  # type: ignore[assignment]  # never called there
        if not self.is_last:
            self.model.norm, self.lm_head = nn.Identity(), None  # type: ignore[assignment]  # never called there

    def hidden_states(self, *args: Any, **kwargs: Any) -> Tensor:
        """The stream after the last layer of the rows that are due. On the last place only, while the pipeline runs."""
        assert self.arrived is not None
        return self.arrived

    def backward(self, micro_batches: Sequence[B], objective: Callable[[Any, B], LossTerms]) -> list[LossTerms]:
        """Losses and gradients of micro-batches of equal shape; returns the terms on the last place, and nothing on others."""
        found: list[LossTerms] = []

        def loss_of(hidden_BTD: Tensor, index: Tensor) -> Tensor:
            self.arrived = hidden_BTD
            found.append(objective(self, micro_batches[int(index)]))
            self.arrived = None
            return found[-1].loss_sum

        batches: Sequence[Any] = micro_batches
        token_BT, position_BT, document_BT = (
            torch.cat([getattr(b, name) for b in batches]) for name in ("token_BT", "position_BT", "document_BT")
        )
        schedule = self._schedule(len(batches), batches[0].token_BT.shape)
        schedule._loss_fn = loss_of
        schedule.step(
            *([token_BT] if self.is_first else []),
            target=torch.arange(len(batches)),
            position_BT=position_BT,
            document_BT=document_BT,
            return_outputs=False,
        )
        return found

    @torch.no_grad()
    def evaluate(self, batches: Iterable[B], objective: Callable[[Any, B], LossTerms]) -> list[LossTerms]:
        """The terms of each batch, on the last place; nothing on others. One batch follows another without waiting for its end."""
        found = []
        for batch in batches:
            stream = self._forward(batch)
            if self.is_last:
                self.arrived = stream
                found.append(objective(self, batch))
                self.arrived = None
        return found

    def from_last(self, value: Any) -> Any:
        """What the last place has, on every place."""
        return dist.gather_objects(value, self.group)[-1]

    def _forward(self, batch: Any) -> Tensor:
        stream = torch.empty((*batch.token_BT.shape, self.config.dim), dtype=self.compute_dtype, device=self.device)
        ranks = torch_dist.get_process_group_ranks(self.group)
        place = torch_dist.get_rank(self.group)
        for run in self.runs:
            if run.number > 0:
                torch_dist.recv(stream, ranks[(place - 1) % len(ranks)])
            source = batch.token_BT if run.number == 0 else stream
            stream = run(source, position_BT=batch.position_BT, document_BT=batch.document_BT)
            if run.number < self.layout.num_stages - 1:
                torch_dist.send(stream.contiguous(), ranks[(place + 1) % len(ranks)])
                stream = torch.empty_like(stream)
        return stream

    def _schedule(self, num_micro_batches: int, token_shape: torch.Size) -> Any:
        key = (num_micro_batches, *token_shape)
        if key not in self.schedules:
            token_BT = torch.empty(token_shape, dtype=torch.int64, device="meta")
            stream_BTD = torch.empty((*token_shape, self.config.dim), dtype=self.compute_dtype, device="meta", requires_grad=True)
            stages: Any = [  # their common base is private
                PipelineStage(
                    run,
                    run.number,
                    self.layout.num_stages,
                    self.device,
                    input_args=token_BT if run.number == 0 else stream_BTD,
                    output_args=stream_BTD,
                    group=self.group,
                )
                for run in self.runs
            ]
            options: dict[str, Any] = {"n_microbatches": num_micro_batches, "loss_fn": _no_loss, "scale_grads": False}
            self.schedules[key] = ScheduleInterleaved1F1B(stages, **options) if self.interleaved else Schedule1F1B(stages[0], **options)
        return self.schedules[key]


class _Run(nn.Module):
    """Layers that follow one another on one process; in front of the first the embeddings, after the last the norm."""

    def __init__(self, owner: Pipelined, number: int) -> None:
        super().__init__()
        self.owner = [owner]  # in a list: not a part of this module
        self.number = number
        self.layers = owner.layout.layers_of(number, owner.config.num_layers)

    def forward(self, x: Tensor, *, position_BT: Tensor, document_BT: Tensor) -> Tensor:
        """The stream after these layers, BTD, of tokens (the first run) or of the stream before."""
        owner = self.owner[0]
        x_BTD = owner.model.embed_tokens(x).to(owner.compute_dtype) if self.number == 0 else x
        context = make_context(owner.config, position_BT, document_BT, None, dtype=owner.compute_dtype)
        for number in self.layers:
            x_BTD = owner.run_layer(number, x_BTD, context)
        if self.number == owner.layout.num_stages - 1:
            x_BTD = owner.model.norm(x_BTD)
        return x_BTD


def cut_into_stages(model: Transformer, layout: Layout, *, interleaved: bool, group: torch_dist.ProcessGroup) -> Pipelined:
    """This process's part of a whole model."""
    return Pipelined(model, layout, interleaved=interleaved, group=group)


def _no_loss(hidden_BTD: Tensor, index: Tensor) -> Tensor:
    """Stands for a loss until a step brings its own."""
    return hidden_BTD.sum()
