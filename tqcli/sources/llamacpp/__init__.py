"""llama.cpp save files, read with the model's GGUF beside them."""
