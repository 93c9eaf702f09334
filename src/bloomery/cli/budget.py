"""bloomery budget: what a training costs before it is begun, from any one of its sizes; and what the dial stands for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple  # Any: values of a JSON object

import typer

from bloomery.cli.display import Debug, Json, format_bytes, print_json, print_table, print_text, session

if TYPE_CHECKING:
    from bloomery.scaling.budget import Choice, Plan, Prices, Question
    from bloomery.scaling.dial import Dial
    from bloomery.scaling.laws import Law
    from bloomery.scaling.shape import Shape

BUDGET_EXAMPLES = (
    "Examples:\n\n    bloomery budget --flops 5.76e23 --law besiroglu --gpu h100 --gpus 1024\n\n"
    "    bloomery budget --params 1B\n\n"
    "    bloomery budget --params 8B --tokens 15T --gpus 1024 --mfu 0.35\n\n"
    "    bloomery budget --dollars 100 --gpu h100 --json\n\n"
    "    bloomery budget --days 14 --gpus 64 --gpu a100 --inference-tokens 10T\n\n"
    "    bloomery budget --depth 12\n\n"
    "    bloomery budget --model llama-3.1-8b --tokens 15T --plot plan.svg\n\n"
    "    bloomery budget --list"
)

UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
DEFAULT_GPU = "h100"
CURVE_POINTS = 60


class Asked(NamedTuple):
    """What a command line comes to."""

    question: "Question"
    law: "Law"
    prices: "Prices"
    shape: "Shape | None"
    dial: "Dial | None"


def budget(
    params: Annotated[str, typer.Option("--params", help="Size of the model.", metavar="N")] = "",
    tokens: Annotated[str, typer.Option("--tokens", help="Tokens to train on.", metavar="N")] = "",
    flops: Annotated[str, typer.Option("--flops", help="Floating-point operations of the training.", metavar="N")] = "",
    gpu_hours: Annotated[str, typer.Option("--gpu-hours", help="Hours of one device.", metavar="N")] = "",
    days: Annotated[str, typer.Option("--days", help="Days on --gpus devices.", metavar="N")] = "",
    dollars: Annotated[str, typer.Option("--dollars", help="What it may cost.", metavar="N")] = "",
    depth: Annotated[int | None, typer.Option("--depth", help="The dial: sizes, rates, batch and horizon from one number.")] = None,
    model: Annotated[str, typer.Option("--model", help="A published model's sizes, as llama-3.1-8b.", metavar="NAME")] = "",
    gpu: Annotated[str, typer.Option("--gpu", help="The device; --list shows them.", metavar="NAME")] = DEFAULT_GPU,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="How many; 0 = as few as hold the training.")] = 0,
    per_node: Annotated[int, typer.Option("--per-node", min=0, help="How many a machine has; 0 = the usual.")] = 0,
    law: Annotated[
        str, typer.Option("--law", help="besiroglu, hoffmann, hoffmann-unrounded, or a JSON file.", metavar="NAME")
    ] = "besiroglu",
    ratio: Annotated[float, typer.Option("--ratio", min=0.0, help="Tokens a parameter; 0 = what the law says.")] = 0.0,
    inference_tokens: Annotated[
        str, typer.Option("--inference-tokens", help="Tokens the model will serve: a smaller one, trained longer.", metavar="N")
    ] = "",
    mfu: Annotated[
        str, typer.Option("--mfu", help="Share of the peak that is reached, or a metrics.jsonl that measured it.", metavar="X|FILE")
    ] = "",
    price: Annotated[float, typer.Option("--price", min=0.0, help="Dollars for an hour of one device; 0 = the table's.")] = 0.0,
    vocab: Annotated[int, typer.Option("--vocab", min=0, help="Size of the vocabulary; 0 = the usual one of the size.")] = 0,
    sequence_tokens: Annotated[int, typer.Option("--sequence-tokens", min=0, help="Places in a row; 0 = the dial's.")] = 0,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", min=0, help="Places in a step; 0 = the dial's.")] = 0,
    optimizer: Annotated[str, typer.Option("--optimizer", help="muon, adamw, or auto: muon where it fits.", metavar="NAME")] = "auto",
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw loss over size at this and other budgets.", metavar="FILE.svg")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the hardware table and stop.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Plan a training from any one of its sizes: parameters, tokens, FLOP, loss, hours, days, dollars, memory, and the launch line."""
    with session(as_json=as_json, debug=debug):
        from bloomery.core.errors import ConfigError

        if show_list:
            show_devices(as_json=as_json)
            return
        amounts = {
            name: parse_amount(value, flag=f"--{name.replace('_', '-')}")
            for name, value in (
                ("params", params), ("tokens", tokens), ("flops", flops), ("gpu_hours", gpu_hours), ("days", days),
                ("dollars", dollars), ("inference_tokens", inference_tokens),
            )
        }  # fmt: skip
        if optimizer not in ("auto", "muon", "adamw"):
            raise ConfigError(f'--optimizer {optimizer}: expected "auto", "muon" or "adamw"')
        if plot is not None and plot.suffix != ".svg":
            raise ConfigError(f"--plot {plot}: the picture is SVG; let the name end in .svg")
        try:
            asked = _ask(amounts, depth=depth, model=model, vocab=vocab, gpu=gpu, gpus=gpus, per_node=per_node, law=law, ratio=ratio,
                         mfu=mfu, price=price)  # fmt: skip
            found = _answer(asked, vocab=vocab, sequence_tokens=sequence_tokens, batch_tokens=batch_tokens, optimizer=optimizer)
        except ValueError as error:
            raise ConfigError(f"budget: {error}") from error
        if plot is not None:
            _draw(asked, found, plot)
        if as_json:
            print_json(found)
            return
        _show(asked, found)
        if plot is not None:
            print_text(f"Plot: {plot}")


def parse_amount(text: str, *, flag: str) -> float:
    """A number as people write it; "" is 0. Raises ConfigError for anything else that is not above 0.

    >>> parse_amount("7B", flag="--params"), parse_amount("5.76e23", flag="--flops"), parse_amount("$1,500", flag="--dollars")
    (7000000000.0, 5.76e+23, 1500.0)
    """
    from bloomery.core.errors import ConfigError

    if not text:
        return 0.0
    plain = text.strip().removeprefix("$").replace(",", "").replace("_", "")
    number, unit = (plain[:-1], UNITS[plain[-1]]) if plain[-1:] in UNITS else (plain, 1.0)
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < 1e40:
        raise ConfigError(f"{flag} {text}: expected a number above 0, such as 7e9, 7B, 1.4T or 250k")
    return value


def show_devices(*, as_json: bool) -> None:
    """The hardware table."""
    from bloomery.scaling.hardware import DEVICES

    if as_json:
        print_json({"devices": [device._asdict() for device in DEVICES]})
        return
    rows = [
        [
            d.key, f"{d.bf16_tflops:g}", f"{d.fp8_tflops:g}" if d.fp8_tflops else "-", f"{d.memory_gib:g}", f"{d.memory_tb_per_second:g}",
            f"{d.wire_gb_per_second:g}" if d.wire_gb_per_second else "-", str(d.per_node), f"{d.mfu:.2f}", f"{d.dollars_per_hour:.2f}",
            d.price_note,
        ]
        for d in DEVICES
    ]  # fmt: skip
    columns = ["name", "bf16 TFLOP/s", "fp8", "memory, GiB", "TB/s", "wires, GB/s", "a machine", "MFU", "$ an hour", "price from"]
    print_table(columns, rows, title="Dense peak rates of the makers' data sheets")


def launch_line(settings: Mapping[str, Any]) -> str:
    """A `launch` as it stands in a recipe.

    >>> launch_line({"devices": 8, "strategy": "fsdp"})
    'launch = { devices = 8, strategy = "fsdp" }'
    """
    from bloomery.pipeline.derive import toml_value

    return "launch = " + toml_value(settings)


def _ask(
    amounts: Mapping[str, float], *, depth: int | None, model: str, vocab: int, gpu: str, gpus: int, per_node: int, law: str,
    ratio: float, mfu: str, price: float,
) -> Asked:  # fmt: skip
    from bloomery.scaling.budget import Prices, Question
    from bloomery.scaling.dial import TOKENS_PER_PARAM, turn_dial
    from bloomery.scaling.hardware import find_device
    from bloomery.scaling.laws import read_law

    device = find_device(gpu)
    device = device._replace(per_node=per_node or device.per_node)
    shape = _find_shape(model) if model else None
    dial = None
    if depth is not None:
        if shape is not None:
            raise ValueError("--depth and --model both say the sizes; give one of them")
        dial = turn_dial(depth, vocab_size=vocab, tokens_per_param=ratio or TOKENS_PER_PARAM)
        shape = dial.shape
    question = Question(**amounts, gpus=gpus, tokens_per_param=ratio)
    if shape is not None:
        from bloomery.scaling.shape import count_params

        if question.params:
            raise ValueError("--params and --depth or --model both say the size; give one of them")
        if question.inference_tokens:
            raise ValueError("an inference load chooses the size, and --depth or --model fixes it; give --params, --tokens or a budget")
        question = question._replace(params=float(count_params(shape).total))
    others = question.tokens or any(amounts[name] for name in ("flops", "gpu_hours", "days", "dollars"))
    if dial is not None and not others:
        question = question._replace(tokens=float(dial.tokens), tokens_per_param=0.0)
    prices = Prices(device, _read_mfu(mfu, device.mfu), price or device.dollars_per_hour)
    return Asked(question, read_law(law), prices, shape, dial)


def _find_shape(name: str) -> "Shape":
    from bloomery.core.config import suggest
    from bloomery.scaling.shape import PUBLISHED

    if name not in PUBLISHED:
        raise ValueError(f'there are no sizes of a model "{name}"; {suggest(name, PUBLISHED)}')
    return PUBLISHED[name]


def _read_mfu(text: str, usual: float) -> float:
    from bloomery.scaling.budget import measured_mfu

    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = measured_mfu(Path(text))
    if not 0 < value <= 1:
        raise ValueError(f"--mfu {text}: {value:g} is no share of the peak; expected a number above 0 and at most 1, such as 0.4")
    return value


def _answer(asked: Asked, *, vocab: int, sequence_tokens: int, batch_tokens: int, optimizer: str) -> dict[str, Any]:
    from bloomery.scaling.budget import choose, describe, make_plan
    from bloomery.scaling.dial import recipe_config, turn_dial
    from bloomery.scaling.shape import shape_of_size

    choice = choose(asked.question, asked.law, asked.prices)
    shape = asked.shape or shape_of_size(choice.split.params, vocab_size=vocab)
    plan = make_plan(
        choice.split,
        asked.prices,
        gpus=asked.question.gpus,
        shape=shape,
        sequence_tokens=sequence_tokens,
        batch_tokens=batch_tokens,
        optimizer="muon" if optimizer == "muon" else "adamw" if optimizer == "adamw" else None,
    )
    found = describe(asked.question, asked.law, asked.prices, choice, plan)
    found["launch_line"] = launch_line(found["launch"]) if found["launch"] else None
    found["notes"] = _notes(asked, choice, plan, found, wants_adamw=optimizer == "adamw")
    if asked.dial is not None:
        ratio = choice.split.tokens / choice.split.params
        depth, vocab_size = asked.dial.depth, asked.dial.shape.vocab_size
        dial = turn_dial(depth, vocab_size=vocab_size, tokens_per_param=ratio, sequence_tokens=sequence_tokens, batch_tokens=batch_tokens)
        others = {} if plan.optimizer == "muon" else {"optimizer": plan.optimizer}
        found |= {"depth": depth, "recipe": recipe_config(dial) | others}
    return found


def _notes(asked: Asked, choice: "Choice", plan: "Plan", found: Mapping[str, Any], *, wants_adamw: bool) -> list[str]:
    from bloomery.scaling.budget import inference_flops

    law, device, params = asked.law, asked.prices.device, choice.split.params
    notes = []
    if asked.question.inference_tokens:
        served, before = asked.question.inference_tokens, choice.before
        lives = [x.flops + inference_flops(x.params, served) for x in (choice.split, before)]
        notes.append(
            f"The same loss as {_short(before.params)} parameters on {_short(before.tokens)} tokens ({before.flops:.3g} FLOP): training "
            f"takes {choice.split.flops / before.flops:.2f} times as much, the whole life {lives[0]:.3g} FLOP in place of {lives[1]:.3g}."
        )
    if law.largest_params and not law.smallest_params <= params <= law.largest_params:
        span = f"{_short(law.smallest_params)} to {_short(law.largest_params)}"
        notes.append(f"The law was fitted on models of {span} parameters; here it is extended.")
    size = found["shape"]["params"]
    if abs(size / params - 1) > 0.1:
        notes.append(f"The nearest shape has {_short(size)} parameters; memory and launch are of that one.")
    if plan.way is None:
        count = f"on {plan.gpus} {device.key}" if asked.question.gpus else f"on up to 16,384 {device.key}"
        notes.append(
            f"No layout holds this training {count} with rows of {plan.work.sequence_tokens:,} and batches of {plan.work.batch_tokens:,} "
            f"tokens and {plan.optimizer}: more memory (another --gpu), more devices, --optimizer adamw or a larger --batch-tokens may "
            "help. Every device needs a row of its own."
        )
    elif plan.optimizer == "adamw" and not wants_adamw:
        notes.append('Muon does not fit (it gathers all matrices of one shape at once): set optimizer = "adamw" in the config.')
    if plan.way is not None and plan.way.nodes > 1:
        notes.append(f"Put the first machine's address in the place of {found['launch']['rendezvous'].split(':')[0]}.")
    if device.key.startswith("tpu"):
        notes.append("This project trains with PyTorch on CUDA and CPUs; for TPUs only the arithmetic holds.")
    return notes


def _show(asked: Asked, found: Mapping[str, Any]) -> None:
    device = asked.prices.device
    best = found["compute_optimal"]
    attention = found["flops_with_attention"] / found["flops"] - 1
    rows = [
        ["parameters", _short(found["params"]), ""],
        ["tokens", _short(found["tokens"]), f"{found['tokens_per_param']:.1f} a parameter"],
        [
            "FLOP",
            f"{found['flops']:.3g}",
            f"6 N D; counted by matrix, with attention over {found['sequence_tokens']:,} tokens: {attention:+.0%}",
        ],
        ["loss", f"{found['loss']:.3f}", f"nats a token, by {asked.law.name}"],
        ["GPU-hours", f"{found['gpu_hours']:,.1f}", f"{device.key} at {found['mfu']:.0%} of {found['peak_flops'] / 1e12:g} TFLOP/s"],
        ["days", f"{found['days']:,.2f}", f"on {found['gpus']:,}"],
        ["dollars", f"{found['dollars']:,.0f}", f"at ${found['dollars_per_gpu_hour']:.2f} an hour ({_price_source(asked.prices)})"],
    ]
    if abs(best["params"] / found["params"] - 1) > 0.01:
        spent = f"{_short(best['tokens'])} tokens, loss {best['loss']:.3f}"
        rows.append(["compute-optimal", _short(best["params"]), f"for the same FLOP: {spent}"])
    if found["inference_tokens"]:
        rows.append(["inference", f"{found['inference_flops']:.3g}", f"FLOP to read and write {_short(found['inference_tokens'])} tokens"])
    print_table(["", "", "how"], rows)
    if found["memory"]:
        memory = {**found["memory"], "together": found["memory_bytes_per_gpu"], f"of the {device.key}'s": found["device_memory_bytes"]}
        print_table(["on each device, at the fullest moment", "bytes"], [[name, format_bytes(value)] for name, value in memory.items()])
    shape = found["shape"]
    print_text(
        f"Model: {shape['num_layers']} layers, width {shape['dim']:,}, {shape['num_heads']} heads of {shape['head_dim']} "
        f"({shape['num_kv_heads']} for keys), MLP {shape['mlp_dim']:,}, vocabulary {shape['vocab_size']:,}; rows of "
        f"{found['sequence_tokens']:,} tokens, {found['batch_tokens']:,} a step, {found['optimizer']}."
    )
    if asked.dial is not None:
        print_text("\n[stages.base.config]")
        from bloomery.pipeline.derive import toml_value

        print_text("\n".join(f"{key:<23} = {toml_value(value)}" for key, value in found["recipe"].items()))
    if found["launch_line"]:
        print_text(f"\n{found['launch_line']}")
    for note in found["notes"]:
        print_text(f"\nNote: {note}")


def _price_source(prices: "Prices") -> str:
    return prices.device.price_note if prices.dollars_per_hour == prices.device.dollars_per_hour else "as given"


def _draw(asked: Asked, found: Mapping[str, Any], path: Path) -> None:
    """Loss over size where the FLOP are fixed: at a tenth of this budget, at it, and at ten times it."""
    from bloomery.core.files import write_text
    from bloomery.core.plots import draw_curves
    from bloomery.scaling.laws import Split, predict_loss

    middle = found["compute_optimal"]["params"]
    series = {}
    for factor in (0.1, 1.0, 10.0):
        product = factor * found["flops"] / 6
        sizes = [middle * factor**0.5 * 10 ** (i / (CURVE_POINTS // 2) - 1) for i in range(CURVE_POINTS + 1)]
        series[f"{factor * found['flops']:.3g} FLOP"] = [(n, predict_loss(asked.law, Split(n, product / n))) for n in sizes]
    marks = {"compute-optimal": [middle], "this plan": [found["params"]]}
    write_text(path, draw_curves(series, x_label="parameters", y_label=f"loss by {asked.law.name}", marks=marks, log_x=True))


def _short(value: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"
