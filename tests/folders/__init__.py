"""Scripts that write checkpoint folders, each by the library that owns the format; run in processes of their own."""
