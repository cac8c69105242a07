"""Training kernels for CPUs: C sources, their compilation, and the Llama layers that call them."""
