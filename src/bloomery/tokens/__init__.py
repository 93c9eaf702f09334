"""From text to token ids: tokenizer, chat template, shards, packing, loader."""
