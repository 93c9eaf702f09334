"""How much memory a training step needs, part by part, on each of the devices that share it.

Counted is what lives at the fullest moment of a step of this project's trainer: when the loss is taken and all
activations wait for the backward pass, when the last gradients come out of it, or when Muon orthogonalises. Weights,
gradients and the optimizer's moments are float32; activations have the width of the precision. The counts of what each
operation keeps are read off model/transformer.py and model/kernels.py for eager CPUs, and fitted to one number a layer for
compiled CUDA (train/compute.py); `bench/budget_memory.py` holds them against measured runs, see docs/budget.md.
"""

from typing import Literal, NamedTuple

from bloomery.scaling.shape import Counts, Shape, count_params

Checkpointing = Literal["none", "selective", "full"]
Optimizer = Literal["muon", "adamw"]

FLOAT32 = 4
SELECTIVE_FRACTION = 0.3
"""What `activation_checkpointing = "selective"` lets a compiled layer keep (train/compute.py)."""
CPU_CHUNK_TOKENS, CUDA_LOGITS_BYTES = 512, 2**33
"""Tokens whose logits exist at one time: objectives/next_token.py."""
PRODUCT_TOKENS = 256
"""Rows up to this long take plain products for attention on a CPU in bfloat16, which keep every score (model/attention.py)."""
CPU_PROCESS_BYTES, CPU_SNAPSHOT, CPU_HOLES = 625e6, 0.62, 0.26
"""What a process needs before it holds a tensor (imports, and libraries that load when they are first used); the share of weights and
moments that waits beside a step to be written, as a snapshot; the share of its activations that its heap loses in holes. Fitted to
whole `pretrain` stages on one machine, see docs/budget.md."""
CUDA_PROCESS_BYTES, CUDA_FRAGMENTS = 1.0e9, 0.03
"""The CUDA context with its libraries, and the caching allocator's holes: customary figures, not measured here."""


class Setup(NamedTuple):
    """How a step is carried out on one of the devices that share it; see core/stage.py: Launch."""

    micro_batch_tokens: int
    """Of all rows that go through the model at a time in each group that shares rows."""
    sequence_tokens: int
    documents_per_row: int = 2
    """More than one: a CPU makes a mask for them."""
    accumulates: bool = True
    """Whether a step has several micro-batches, so that gradients wait beside activations."""
    optimizer: Optimizer = "muon"
    checkpointing: Checkpointing = "none"
    element_bytes: int = 2
    """Of an activation: 2 in bf16 and fp16, 4 in fp32."""
    is_compiled: bool = True
    """As on CUDA; False counts eager layers, as on CPUs."""
    shards: int = 1
    """Devices that share weights, gradients and optimizer (FSDP)."""
    tensor: int = 1
    """Devices that share every matrix, with a part of the sequence each between them."""
    pipeline: int = 1
    """Devices that hold a run of layers each."""


class Memory(NamedTuple):
    """Bytes on one device by part, at the fullest moment of a step."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    workspace: float
    """Gathered layers, Muon's products, and of the process: a snapshot on its way to disk, holes of the heap, libraries."""

    @property
    def total(self) -> float:
        """All together."""
        return sum(self)


def estimate_memory(shape: Shape, setup: Setup) -> Memory:
    """The bytes that one device needs, the process included: of a pipeline the one that needs the most."""
    tensors = estimate_tensors(shape, setup)
    if setup.is_compiled:
        process = CUDA_PROCESS_BYTES + CUDA_FRAGMENTS * tensors.total
    else:
        holes = CPU_HOLES * _activation_bytes(shape, setup, in_flight=1)
        process = CPU_PROCESS_BYTES + CPU_SNAPSHOT * (tensors.weights + tensors.optimizer) + holes
    return tensors._replace(workspace=tensors.workspace + process)


def estimate_tensors(shape: Shape, setup: Setup) -> Memory:
    """The bytes of all tensors that live at the fullest moment: what `torch.cuda.max_memory_allocated` counts."""
    if setup.pipeline == 1:
        return _stage_bytes(shape, setup, in_flight=1, has_loss=True)
    # 1F1B: the first place holds a micro-batch for each place behind it, the last has the loss.
    places = (_stage_bytes(shape, setup, in_flight=setup.pipeline, has_loss=False), _stage_bytes(shape, setup, in_flight=1, has_loss=True))
    return max(places, key=lambda memory: memory.total)


def _stage_bytes(shape: Shape, setup: Setup, *, in_flight: int, has_loss: bool) -> Memory:
    own = _own_counts(shape, setup)
    weights = FLOAT32 * own.total
    moments = FLOAT32 * (own.matrices + 2 * (own.total - own.matrices)) if setup.optimizer == "muon" else 2 * weights
    activations, loss = _activation_bytes(shape, setup, in_flight=in_flight), _loss_bytes(shape, setup) if has_loss else 0.0
    gathered = _gathered_bytes(shape, setup)
    table = FLOAT32 * shape.vocab_size * shape.dim / setup.tensor
    layer = _layer_bytes(shape, setup)
    waiting = weights if setup.accumulates else 0.0
    computed_again = 0.0 if setup.checkpointing == "none" else layer
    moments_in_time = (
        # All activations wait, and the loss is taken.
        Memory(weights, waiting, moments, activations, loss, gathered),
        # The backward pass begins: the output matrix has its gradient, the last layer is computed again.
        Memory(weights, waiting, moments, activations + computed_again, 2 * table * has_loss, gathered),
        # The last gradients come: one layer is left, and the table's own gradient beside that of the output matrix.
        Memory(weights, weights, moments, layer, table, gathered),
        Memory(weights, weights, moments, 0.0, 0.0, _muon_bytes(shape, setup) if setup.optimizer == "muon" else 0.0),
    )
    return max(moments_in_time, key=lambda memory: memory.total)


def _own_counts(shape: Shape, setup: Setup) -> Counts:
    """Parameters of the share that one device keeps; both ends of a pipeline have a table."""
    counts = count_params(shape)
    share = -(-shape.num_layers // setup.pipeline) / shape.num_layers
    tables = shape.vocab_size * shape.dim if setup.pipeline > 1 else counts.embeddings
    parts = setup.shards * setup.tensor
    vectors = share * counts.vectors / setup.shards
    return Counts(round(share * counts.matrices / parts), round(tables / parts), round(vectors))


def _activation_bytes(shape: Shape, setup: Setup, *, in_flight: int) -> float:
    """What waits for the backward pass, of so many micro-batches."""
    layer, stream = _layer_bytes(shape, setup), setup.element_bytes * shape.dim * setup.micro_batch_tokens / setup.tensor
    num_layers = -(-shape.num_layers // setup.pipeline) * in_flight
    if setup.checkpointing == "full":
        kept = num_layers * stream
    elif setup.checkpointing == "selective":
        kept = num_layers * max(SELECTIVE_FRACTION * layer, stream)
    else:
        kept = num_layers * layer
    ends = (FLOAT32 + setup.element_bytes) * shape.dim * setup.micro_batch_tokens  # the last norm's
    return kept + ends / setup.tensor + _mask_bytes(setup)


def _layer_bytes(shape: Shape, setup: Setup) -> float:
    """What one layer keeps of a micro-batch. Those who share its matrices each keep what goes into them whole."""
    e, tokens = setup.element_bytes, setup.micro_batch_tokens
    whole = 2 * e * shape.dim * tokens * (1 - 1 / setup.tensor)
    if setup.is_compiled:
        return tokens * e * (11 * shape.dim + 3 * shape.mlp_dim) / setup.tensor + whole
    norms = 2 * (FLOAT32 + e) * shape.dim + (FLOAT32 * (shape.query_dim + shape.kv_dim) if shape.qk_norm else 0)
    attention = e * (2 * shape.query_dim + 2 * shape.kv_dim)
    has_mask = setup.documents_per_row > 1
    if has_mask and e == 2 and setup.sequence_tokens <= PRODUCT_TOKENS:
        attention += e * shape.num_heads * setup.sequence_tokens
    narrow = e * count_params(shape).matrices / shape.num_layers if e < FLOAT32 else 0  # copies of the weights in bf16
    return (tokens * (norms + attention + 4 * e * shape.mlp_dim) + narrow) / setup.tensor + whole


def _mask_bytes(setup: Setup) -> float:
    """On a CPU a number for each pair of places of a row, twice: for layers without and with a window."""
    is_needed = not setup.is_compiled and setup.documents_per_row > 1
    return 2 * setup.element_bytes * setup.micro_batch_tokens * setup.sequence_tokens if is_needed else 0


def _loss_bytes(shape: Shape, setup: Setup) -> float:
    """A chunk of logits and of their slope, and the gradients of the output matrix and of the last hidden states."""
    e, table = setup.element_bytes, shape.vocab_size * shape.dim
    kept = e * shape.dim * setup.micro_batch_tokens + FLOAT32 * table + (2 * e * table if e < FLOAT32 else FLOAT32 * table)
    if setup.is_compiled:
        chunk = min(setup.micro_batch_tokens, CUDA_LOGITS_BYTES // (2 * shape.vocab_size))
        return kept + 2 * e * chunk * shape.vocab_size
    chunk = min(setup.micro_batch_tokens, CPU_CHUNK_TOKENS)
    added = FLOAT32 * table if e < FLOAT32 and setup.micro_batch_tokens > chunk else 0  # the gradient of a later chunk, made wide
    return kept + added + chunk * shape.vocab_size * (e + FLOAT32 if e < FLOAT32 else FLOAT32)


def _gathered_bytes(shape: Shape, setup: Setup) -> float:
    """With FSDP: two layers whole in the compute dtype, the gradient of one in float32, and the tables. With tensor: the output matrix."""
    table = shape.vocab_size * shape.dim
    if setup.shards > 1:
        layer = count_params(shape).matrices / shape.num_layers / setup.tensor
        tables = count_params(shape).embeddings / setup.tensor
        return layer * (2 * setup.element_bytes + FLOAT32) + tables * (setup.element_bytes + FLOAT32)
    return setup.element_bytes * table if setup.tensor > 1 else 0.0


def _muon_bytes(shape: Shape, setup: Setup) -> float:
    """Of the largest group of matrices of one shape: the looked-ahead momentum, its stack, and Newton-Schulz's products.

    The whole group is gathered on every process that takes part, and each orthogonalises its part of it (train/muon.py).
    """
    layers = -(-shape.num_layers // setup.pipeline)
    in_mlp = (2 if shape.is_gated else 1) * layers * shape.dim * shape.mlp_dim
    square = shape.query_dim == shape.dim
    in_attention = 2 * layers * shape.dim * (shape.query_dim if square else shape.kv_dim)
    if shape.kv_dim == shape.query_dim and square:
        in_attention *= 2
    size = max(in_mlp, in_attention)
    ratio = min(shape.dim, shape.mlp_dim) / max(shape.dim, shape.mlp_dim) if size == in_mlp else 1.0
    e = setup.element_bytes
    peers = setup.shards * setup.tensor
    return size * (FLOAT32 / peers + e + max(FLOAT32, (2 * e + 3 * e * ratio) / peers))
