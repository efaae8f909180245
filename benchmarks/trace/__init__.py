"""What a training step would make a GPU do, counted without one: kernels, bytes, operations, memory, blocking copies.

`guard` makes a CUDA device that computes nothing, and `tracer` counts what runs on it. `models` and `measure` run the
project's own code there. `card` turns counts into an estimated time, and `recipes` that into minutes. `limits` says
what must hold, `variants` looks for mixed devices, and `report` writes trace.json and trace.md.
"""
