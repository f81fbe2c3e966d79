"""Where tensors come from: transformers models, llama.cpp save files, plain arrays."""
