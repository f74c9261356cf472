"""How a chunk's raw bytes are cut and stored."""
