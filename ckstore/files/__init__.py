"""Checkpoint files as trees: safetensors, torch.save archives, and anything else as plain bytes."""
