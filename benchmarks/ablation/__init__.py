"""The paper's ablation in small: the same network trained with and without each part, on rendered clips.

`python -m benchmarks.ablation` renders and annotates its data, trains every row of the table from random weights with
the same seeds and steps, dresses held-back clips, and compares with what no real data set has: the same motion in the
other garment, once with the interaction done and once with the cloth left alone. See RESULTS.md for what came out.
"""
