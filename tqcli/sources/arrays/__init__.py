"""Arrays of a framework-free file: .npy, .npz, .safetensors under other names."""
