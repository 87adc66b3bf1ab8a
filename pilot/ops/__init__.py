"""The C++ and CUDA operators, their eager twins in PyTorch, and how they are built."""
