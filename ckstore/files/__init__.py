"""Checkpoint files as trees: torch.save, safetensors, GGUF, distributed folders; anything else as plain bytes."""
