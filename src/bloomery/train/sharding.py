"""How a model is spread over processes, with PyTorch's own parts: fully_shard, parallelize_module, distributed.pipelining.

A parameter's way: `distribute` cuts it (tensor axis first, then FSDP's), forward and backward run on the cut model,
`Parallel.sum_gradients` leaves on each process the gradient of its own part, summed over the whole batch, and the optimizer
updates that part. All losses are sums, so gradients are summed, never averaged; `train_step` divides once.

Under tensor parallelism everything in a layer is shared by heads or by width, and the loss by tokens: each process takes
the loss of its part of every row (`own_tokens`), with the output matrix made whole for the moment (`_gather_head`).

Shapes: B rows, T tokens, D model, V vocabulary, N matrices of one shape, R rows and C columns of one.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar  # Any: a batch is a dataclass of some stage

import torch
import torch.distributed as torch_dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from bloomery.core import dist
from bloomery.core.stage import Launch
from bloomery.model.kernels import rms_norm
from bloomery.model.lora import add_adapters
from bloomery.model.transformer import Layer, RMSNorm, Transformer
from bloomery.train.layout import Layout, make_layout
from bloomery.train.pipelining import Pipelined, cut_into_stages

AXES = ("pipeline", "replicas", "shards", "tensor")
T = TypeVar("T")


class Parallel:
    """This process's place among those that train together; alone, every operation is the identity."""

    def __init__(self, layout: Layout | None = None, mesh: DeviceMesh | None = None) -> None:
        self.layout = layout or Layout()
        self.mesh = mesh
        self.tied_group, self.is_last_of_tied = _tied_group(self.layout) if mesh is not None else (None, False)
        # Those that hold the same layers as this one, in whatever parts.
        self.peers = _flat_group(mesh, AXES[1:]) if mesh is not None else None

    @property
    def num_peers(self) -> int:
        """How many processes hold the same layers, this one included."""
        return self.layout.data * self.layout.tensor

    @property
    def has_whole_model(self) -> bool:
        """Whether this process holds every weight."""
        return self.layout.shards * self.layout.tensor * self.layout.pipeline == 1

    def own_tokens(self, batch: T) -> T:
        """The batch with weight only on this process's part of each row, where a tensor group shares them."""
        if self.layout.tensor == 1:
            return batch
        weight_BT: Tensor = getattr(batch, "weight_BT")  # noqa: B009  (every batch that is trained on has it; see AnyBatch)
        share_T = torch.arange(weight_BT.shape[1], device=weight_BT.device) * self.layout.tensor // weight_BT.shape[1]
        own = weight_BT * (share_T == self.layout.tensor_rank(dist.rank()))
        shared: Any = batch
        return dataclasses.replace(shared, weight_BT=own)  # type: ignore[no-any-return]

    @property
    def counts_tokens(self) -> bool:
        """Whether the tokens that this process reads are counted here, and not on a neighbour that reads the same ones."""
        return self.layout.tensor_rank(dist.rank()) == 0

    def num_rounds(self, num_micro_batches: int) -> int:
        """How often to go forward and backward: as often as the busiest process, where each time takes all of them."""
        return int(dist.maximum(num_micro_batches)) if self.layout.shards > 1 else num_micro_batches

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """This process's part of each parameter's gradient, summed over all processes that hold the same part."""
        for parameter in parameters:
            if parameter.grad is None:  # a process whose rows hold nothing to learn still takes part in the sum
                parameter.grad = torch.zeros_like(parameter)
        if self.mesh is None:
            return [local(p.grad) for p in parameters if p.grad is not None]
        if self.layout.tensor > 1 and self.layout.shards == 1:  # FSDP does this itself
            self._sum_over_tensor_group(parameters)
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        if self.layout.shards == 1 and self.layout.replicas > 1:
            _sum_flat(gradients, self.mesh["replicas"].get_group())
        if self.tied_group is not None:
            _sum_flat([local(p.grad) for p in parameters if getattr(p, "is_tied", False)], self.tied_group)
        return gradients

    def _sum_over_tensor_group(self, parameters: Sequence[nn.Parameter]) -> None:
        assert self.mesh is not None
        # Of weights that every process has (norms), each has a part of the gradient's sum.
        parts = [(p, p.grad) for p in parameters if cut_of(p) == (Replicate(),) and cut_of(p.grad) == (Partial(),)]
        _sum_flat([local(grad) for _, grad in parts], self.mesh["tensor"].get_group())
        for p, grad in parts:
            p.grad = _like(p, local(grad))
        for p in parameters:
            if isinstance(p.grad, DTensor) and cut_of(p.grad) != cut_of(p):  # that of embeddings comes whole
                p.grad = p.grad.redistribute(placements=cut_of(p))

    def gradient_norm(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> float:
        """The length of the whole gradient, of which this process has some parts."""
        if self.layout.shards * self.layout.tensor * self.layout.pipeline == 1:
            return float(torch.nn.utils.get_total_norm(list(gradients)))
        square = torch.zeros((), dtype=torch.float64, device=gradients[0].device)
        for parameter, norm in zip(parameters, torch._foreach_norm(list(gradients)), strict=True):
            if not (self.is_last_of_tied and getattr(parameter, "is_tied", False)):  # the first stage counts it
                square += norm.double().square() * (_num_parts(parameter) / self.num_peers)
        return float(dist.all_reduce_sum(square).sqrt())

    def gather(self, parts: Sequence[Tensor], *, like: Sequence[Tensor]) -> Tensor:
        """Matrices of one shape, each whole, as NRC, from this process's parts, which are those it has of `like`."""
        first = like[0]
        if not isinstance(first, DTensor):
            return torch.stack(list(parts))
        if any(type(p) not in (Shard, Replicate) for p in first.placements):  # cut twice along one dimension
            return torch.stack([_like(matrix, part).full_tensor() for matrix, part in zip(like, parts, strict=True)])
        stacked = torch.stack(list(parts))
        # One message for all: a dimension more in front, and the same cuts behind it.
        placements = [Shard(p.dim + 1) if isinstance(p, Shard) else p for p in first.placements]
        shape = torch.Size((len(parts), *first.shape))
        whole = DTensor.from_local(stacked, first.device_mesh, placements, run_check=False, shape=shape, stride=_stride(shape))
        return whole.full_tensor()

    def spread(self, function: Callable[[Tensor], Tensor], matrix_NRC: Tensor) -> Tensor:
        """function(matrix_NRC) for a function of each matrix by itself: every peer takes some, and all get the results."""
        if self.peers is None or self.num_peers == 1:
            return function(matrix_NRC)
        each = -(-len(matrix_NRC) // self.num_peers)
        start = min(torch_dist.get_rank(self.peers) * each, len(matrix_NRC))
        own = matrix_NRC.new_zeros(each, *matrix_NRC.shape[1:])
        mine = matrix_NRC[start : start + each]
        if len(mine):
            own[: len(mine)] = function(mine)
        return dist.all_gather(own, self.peers)[: len(matrix_NRC)]


def local(tensor: Tensor | None) -> Tensor:
    """This process's part of a tensor; for a plain tensor, itself."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_of(tensor: Tensor | None) -> tuple[Placement, ...]:
    """How a tensor is cut, axis by axis of its mesh; nothing for a plain one."""
    return tuple(tensor.placements) if isinstance(tensor, DTensor) else ()


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of `like`."""
    if not isinstance(like, DTensor):
        return whole
    replicated = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)
    return replicated.redistribute(placements=like.placements).to_local()


def arrange(launch: Launch, device: torch.device) -> Parallel:
    """The place of this process by its number. Raises ConfigError for a launch that the number of processes does not fill."""
    layout = make_layout(launch, num_processes=dist.world_size())
    if layout.num_processes == 1:
        return Parallel()
    # It says of FSDP x tensor that two messages are sent where one cannot be.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    shape = (layout.pipeline, layout.replicas, layout.shards, layout.tensor)
    return Parallel(layout, init_device_mesh(device.type, shape, mesh_dim_names=AXES))


def distribute(model: Transformer, parallel: Parallel, launch: Launch, device: torch.device) -> Transformer:
    """This process's part of a model that every process has whole, on its device. The model is cut in place and used up.

    The layers may already be compiled one by one.
    """
    layout, mesh = parallel.layout, parallel.mesh
    if mesh is None:
        return model.to(device)
    if layout.pipeline > 1:
        group = mesh["pipeline"].get_group()
        return cut_into_stages(model, layout, interleaved=launch.schedule == "interleaved", group=group).to(device)
    if layout.tensor > 1:
        _share_matrices(model, mesh["tensor"], sequence_parallel=launch.sequence_parallel)
    if layout.shards > 1:
        _shard_fully(model, mesh["replicas", "shards"] if layout.replicas > 1 else mesh["shards"])
    return model.to(device)


def end_evaluation(model: Transformer) -> None:
    """Frees what a forward pass without a backward pass has left whole."""
    if isinstance(model, FSDPModule):
        model.reshard()


def gather_model(model: Transformer) -> Transformer | None:
    """On rank 0 a model of its own with all weights, on the CPU; on others None. One weight at a time is whole on the device."""
    weights = dict(model.named_parameters())
    if not (isinstance(model, Pipelined) or any(isinstance(w, DTensor) for w in weights.values())):
        return model if dist.rank() == 0 else None
    whole = Transformer(model.config, seed=None) if dist.rank() == 0 else None
    if whole is not None:
        add_adapters(whole, model.lora, seed=0)
    wanted = dict(whole.named_parameters()) if whole is not None else {}
    owners: dict[str, int] = {}
    for rank, shapes in enumerate(dist.gather_objects({name: (w.shape, w.dtype) for name, w in weights.items()})):
        for name, (shape, dtype) in shapes.items():
            if owners.setdefault(name, rank) == rank:
                found = _fetch(weights.get(name), owner=rank, shape=shape, dtype=dtype, device=model.device)
                if whole is not None:
                    with torch.no_grad():
                        wanted[name].copy_(found)
    return whole


def _fetch(weight: Tensor | None, *, owner: int, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The whole weight, on rank 0; those that have no part of it only pass by."""
    full = _whole(weight.detach()) if weight is not None else torch.empty(0)
    if owner == 0:
        return full
    if dist.rank() == owner:
        torch_dist.send(full.contiguous(), 0)
    if dist.rank() == 0:
        full = torch.empty(shape, dtype=dtype, device=device)
        torch_dist.recv(full, owner)
    return full


def _shard_fully(model: Transformer, mesh: DeviceMesh) -> None:
    narrow = None if model.compute_dtype == torch.float32 else model.compute_dtype
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "hidden_states")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _share_matrices(model: Transformer, mesh: DeviceMesh, *, sequence_parallel: bool) -> None:
    stream: Placement = Shard(1) if sequence_parallel else Replicate()
    whole = PrepareModuleInput
    plan: dict[str, ParallelStyle] = {
        "self_attn": whole(input_layouts=(stream, None, None), desired_input_layouts=(Replicate(), None, None)),
        **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
        "self_attn.o_proj": RowwiseParallel(output_layouts=stream),
        "mlp": whole(input_layouts=(stream,), desired_input_layouts=(Replicate(),)),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=stream),
    }
    grad: Placement = Partial() if sequence_parallel else Replicate()
    for layer in model.model.layers:
        parallelize_module(layer, mesh, plan, src_data_rank=None)
        assert isinstance(layer, Layer)  # that of a ModuleList is not known
        layer.input_layernorm = _SharedNorm(layer.input_layernorm, mesh, grad)
        layer.post_attention_layernorm = _SharedNorm(layer.post_attention_layernorm, mesh, grad)
        for name, norm in list(layer.self_attn.named_children()):
            if isinstance(norm, RMSNorm):  # of queries and keys: each process has some heads
                setattr(layer.self_attn, name, _SharedNorm(norm, mesh, Partial()))
    embedding = RowwiseParallel(input_layouts=Replicate(), output_layouts=stream)
    parallelize_module(model.model, mesh, {"embed_tokens": embedding}, src_data_rank=None)
    model.model.norm = _SharedNorm(model.model.norm, mesh, grad)
    model.model.norm.register_forward_hook(functools.partial(_gather_stream, mesh=mesh, stream=stream))
    head = model.score or model.lm_head
    if head is not None:
        head.weight = nn.Parameter(distribute_tensor(head.weight.detach(), mesh, [Shard(0)], src_data_rank=None))
    model.gather_head = _gather_head


class _SharedNorm(RMSNorm):
    """A norm whose weight every process has; `grad` says whether its gradient is whole on each or a part of a sum."""

    def __init__(self, norm: RMSNorm, mesh: DeviceMesh, grad: Placement) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.weight = nn.Parameter(distribute_tensor(norm.weight.detach(), mesh, [Replicate()], src_data_rank=None))
        self.grad_placement = grad

    def forward(self, x: Tensor) -> Tensor:
        """This process's x normalised."""
        assert isinstance(self.weight, DTensor)
        return rms_norm(x, self.weight.to_local(grad_placements=[self.grad_placement]), self.eps)


def _gather_stream(module: nn.Module, inputs: Any, out_BTD: Tensor, *, mesh: DeviceMesh, stream: Placement) -> Tensor:
    """The stream of all tokens for the loss, of which each process computes a part: so each has a part of the gradient."""
    whole = DTensor.from_local(out_BTD, mesh, [stream], run_check=False).redistribute(placements=[Replicate()])
    # clone: FSDP hangs its hooks on what `hidden_states` returns, and warns of views.
    return whole.to_local(grad_placements=[Partial()]).clone()


def _gather_head(weight_VD: Tensor) -> Tensor:
    assert isinstance(weight_VD, DTensor)
    whole = weight_VD.redistribute(placements=[Replicate()])
    return whole.to_local(grad_placements=[Partial()])


def _sum_flat(tensors: Sequence[Tensor], group: dist.Group) -> None:
    # One message for all: a transformer has many small tensors, and each message costs a round trip.
    if tensors:
        flat = dist.all_reduce_sum(torch.cat([t.flatten() for t in tensors]), group)
        for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _like(parameter: Tensor, own: Tensor) -> DTensor:
    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        own, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _num_parts(parameter: Tensor) -> int:
    """In how many different parts the processes hold a parameter."""
    if not isinstance(parameter, DTensor):
        return 1
    return math.prod(parameter.device_mesh.size(i) for i, p in enumerate(parameter.placements) if not p.is_replicate())


def _stride(shape: torch.Size) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _flat_group(mesh: DeviceMesh, axes: Sequence[str]) -> dist.Group:
    longer = [axis for axis in axes if mesh[axis].size() > 1]
    if len(longer) < 2:
        return mesh[longer[0]].get_group() if longer else mesh[axes[0]].get_group()
    return mesh[tuple(longer)]._flatten().get_group()


def _tied_group(layout: Layout) -> tuple[dist.Group, bool]:
    """The first and the last process of this one's pipeline, if it is one of them; both keep the embeddings."""
    if layout.pipeline == 1:
        return None, False
    mine: dist.Group = None
    for i in range(layout.data):  # every process takes part in making every group
        ends = [i, i + (layout.pipeline - 1) * layout.data]
        group = torch_dist.new_group(ends)
        mine = group if dist.rank() in ends else mine
    return mine, layout.pipeline_rank(dist.rank()) == layout.pipeline - 1
