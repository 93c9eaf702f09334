"""Where benchmarks lie on the Hugging Face hub. Data sets that once were scripts are read from the hub's own Parquet branch."""

from bloomery.evaluate.benchmark import HubFile

PARQUET = "refs/convert/parquet"

HUB_TABLE = {
    "hellaswag": ("Rowan/hellaswag", "data/validation-00000-of-00001.parquet", "main"),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy/test-00000-of-00001.parquet", "main"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge/test-00000-of-00001.parquet", "main"),
    "openbook_qa": ("allenai/openbookqa", "main/test-00000-of-00001.parquet", "main"),
    "commonsense_qa": ("tau/commonsense_qa", "data/validation-00000-of-00001.parquet", "main"),
    "piqa": ("ybisk/piqa", "plain_text/validation/0000.parquet", PARQUET),
    "copa": ("aps/super_glue", "copa/validation-00000-of-00001.parquet", "main"),
    "winogrande": ("allenai/winogrande", "winogrande_xl/validation-00000-of-00001.parquet", "main"),
    "boolq": ("google/boolq", "data/validation-00000-of-00001.parquet", "main"),
    "squad": ("rajpurkar/squad", "plain_text/validation-00000-of-00001.parquet", "main"),
    "lambada_openai": ("EleutherAI/lambada_openai", "default/test/0000.parquet", PARQUET),
    "mmlu": ("cais/mmlu", "all/test-00000-of-00001.parquet", "main"),
    "mmlu_dev": ("cais/mmlu", "all/dev-00000-of-00001.parquet", "main"),
    "gsm8k": ("openai/gsm8k", "main/test-00000-of-00001.parquet", "main"),
    "math": ("HuggingFaceH4/MATH-500", "test.jsonl", "main"),
    "ifeval": ("google/IFEval", "ifeval_input_data.jsonl", "main"),
    "crows_pairs": ("nyu-mll/crows_pairs", "crows_pairs/test/0000.parquet", PARQUET),
    "humaneval": ("openai/openai_humaneval", "openai_humaneval/test-00000-of-00001.parquet", "main"),
    "mbpp_prompt": ("google-research-datasets/mbpp", "full/prompt-00000-of-00001.parquet", "main"),
    "mbpp": ("google-research-datasets/mbpp", "full/test-00000-of-00001.parquet", "main"),
}
"""Name: repository, file, revision."""


def hub_files(name: str) -> tuple[HubFile, ...]:
    """The files of a benchmark on the hub; none if it has none there."""
    if name not in HUB_TABLE:
        return ()
    repo, path, revision = HUB_TABLE[name]
    return (HubFile(repo=repo, path=path, revision=revision),)
