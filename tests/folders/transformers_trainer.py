"""`python -m tests.folders.transformers_trainer FOLDER`: what a `Trainer` leaves, and a model saved in shards.

`runs/checkpoint-2` is the Trainer's, `shards` the model in several safetensors files, `bins` in several of torch.save;
beside them the whole model in one file each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

SHARD = "800KB"


def main(folder: Path) -> None:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    tokens = [{"input_ids": torch.arange(8) + n, "labels": torch.arange(8) + n} for n in range(8)]
    arguments = TrainingArguments(
        str(folder / "runs"),
        max_steps=2,
        save_steps=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=tokens).train()
    model.save_pretrained(folder / "shards", max_shard_size=SHARD)
    state = model.state_dict()
    save_in_bins(state, folder / "bins")
    torch.save(state, folder / "whole.pt")
    save_file(state, folder / "whole.safetensors")


def save_in_bins(state: dict[str, torch.Tensor], folder: Path) -> None:
    """As `save_pretrained` did before it wrote only safetensors."""
    folder.mkdir()
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="pytorch_model{suffix}.bin", max_shard_size=SHARD
    )
    for name, keys in split.filename_to_tensors.items():
        torch.save({key: state[key] for key in keys}, folder / name)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
