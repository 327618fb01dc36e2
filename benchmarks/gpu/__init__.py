"""Everything about a CUDA device in one command: first whether it computes right, then how fast.

    python -m benchmarks.gpu --output gpu.json
    python -m benchmarks.gpu --device cpu --quick

It needs torch 2.9, FuxiCTR and polars with what they bring; where Ray is missing, which FuxiCTR
imports and nothing here uses, a stand-in takes its place. Every figure goes to the JSON file as
soon as it is there, and the steps' to a table at the end. Exit code 0: all checks hold; 1: one
does not; 2: there is no CUDA device. ``--quick`` does everything once on small sizes, also on the
CPU, where its times mean nothing.

METHOD

Data is random and fresh: MicroLens_1M's sizes (91,718 items, histories with the quartiles of the
challenge's lengths), other rows in each of the batches that take turns.

Checks compare with the plain formulas of ``tests/oracles.py`` in float64 on the CPU, with the
same weights and without dropout: probabilities, losses and gradients (the distance of all
gradients together relative to their length) in each precision, for packed and padded histories,
dense and lazy tables; the losses of steps; recorded steps against plain ones; a resumed training
bit for bit against an uninterrupted one, with dropout, under torch's deterministic algorithms;
batches sent ahead on another stream, and rows kept on the device, against the loader's on the CPU;
steps under torch's refusal to synchronise.

A time is taken between two CUDA events around several steps, after warm-up steps (in which torch
compiles, chooses and records), so that queued work overlaps as in a training; the median over the
rounds is reported. Every variant is measured twice, in turn, and the distance of the two medians
is the noise: a smaller difference between variants is none. One request of the scorer is timed
alone, from ids in main memory to probabilities in main memory.

The floor of a step is what this device would need at the rates that it has for large products and
copies, measured in the same run: the quadratic layers' products (6 N R F² B operations), ten
passes over (B, F) activations of each layer and over the history's (T, D) vectors in bfloat16,
seven passes of dense Adam over the weights in float32.

A part that would begin after ``--minutes`` is left out and named.
"""
