"""What a training step would make a GPU do, counted without one: kernels, bytes, operations, memory, blocking copies.

`guard` makes a CUDA device that computes nothing, `tracer` counts what runs on it, `models` and `measure` run the
project's own code there, `card` turns counts into an estimated time, `recipes` steps into hours, `limits` says what must
hold, `variants` looks for mixed devices, `report` writes trace.json and trace.md.
"""
