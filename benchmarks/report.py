"""The results as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """Everything measured, one section a benchmark."""
    parts = ["# Benchmark results\n", "Made by `make bench`. Ratios are against a baseline timed in the same run.\n"]
    parts += [section(results[name]) for name, section in _SECTIONS.items() if name in results]
    return "\n".join(parts)


def _throughput(r: dict[str, Any]) -> str:
    lines = [
        "## Annotation half: speed and size\n",
        f"{r['measured']}, {r['machine']}, {r['workers']} workers; {r['frames']} frames of {r['videos']}.\n",
        "| stage | frames/s | inference ms/frame | other ms/frame | peak memory MB | Delta bytes/frame |",
        "|---|---|---|---|---|---|",
    ]
    for name, s in r["stages"].items():
        lines.append(
            f"| {name} | {s['frames_per_second']:.1f} | {s['inference_ms_per_frame']:.1f} "
            f"| {s['other_ms_per_frame']:.1f} | {s['peak_memory_mb']:.0f} | {s['bytes_per_frame']:.0f} |"
        )
    lines += [
        "",
        "| whole half | pipeline | plain MediaPipe loop | ratio | goal |",
        "|---|---|---|---|---|",
        f"| seconds | {r['pipeline_s']:.1f} | {r['baseline_s']:.1f} (loop {r['baseline_loop_s']:.1f}, others "
        f"{r['baseline_functions_s']:.1f}) | **{r['speedup']:.2f}x** | 1.8x |",
        f"| frames/s | {r['pipeline_fps']:.2f} | {r['baseline_fps']:.2f} | | |",
        f"| bytes/frame | {r['delta_bytes_per_frame']:.0f} (Delta) | {r['plain_bytes_per_frame']:.0f} (PNG, npy, json) "
        f"| {r['delta_bytes_per_frame'] / r['plain_bytes_per_frame']:.2f}x | |",
        f"| not inference, of worker time | {100 * r['other_share_in_workers']:.1f} % | | | 10 % |",
        f"| not inference, of wall time x workers | {100 * r['other_share_of_wall']:.1f} % | | | 10 % |",
        "",
    ]
    return "\n".join(lines)


def _memory(r: dict[str, Any]) -> str:
    names = list(r["lengths"][0]["peak_memory_mb"])
    lines = [
        "## Annotation half: peak memory of a worker\n",
        f"{r['measured']}, {r['machine']}; one video of {r['height']} rows at {r['fps']:g} frames a second. "
        "Goal: under 1,500 MB, flat in the length.\n",
        "| minutes | frames | " + " | ".join(f"{n} MB" for n in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for e in r["lengths"]:
        cells = " | ".join(f"{e['peak_memory_mb'][n]:.0f}" for n in names)
        lines.append(f"| {e['minutes']:g} | {e['frames']} | {cells} |")
    return "\n".join([*lines, ""])


def _studio(r: dict[str, Any]) -> str:
    lines = [
        "## Capture studio\n",
        f"{r['measured']}, {r['machine']}; {r['frames']} frames of 480x640, {r['cores']} workers. Goal: 12 frames a "
        f"second and core with everything. The baked body takes {r['rig_bytes'] / 1e6:.2f} MB (goal: 3 MB).\n",
        "| what | seconds | CPU seconds | frames a second and core |",
        "|---|---|---|---|",
    ]
    for name, run in r["runs"].items():
        rate = run["frames_per_second_and_core"]
        lines.append(f"| {name} | {run['wall_s']:.1f} | {run['cpu_s']:.1f} | {rate:.1f} |")
    lines += ["", "| frames of a clip | peak memory MB |", "|---|---|"]
    lines += [f"| {length} | {mb:.0f} |" for length, mb in r["memory_mb"].items()]
    return "\n".join([*lines, ""])


def _model(r: dict[str, Any]) -> str:
    size, frames, height, width = r["batch"]
    lines = [
        "## A training step of the transformer\n",
        f"{r['measured']}, {r['machine']}, {r['threads']} threads; preset {r['preset']}, {size} clips of "
        f"{frames}x{height}x{width} with a garment, {r['precision']}, forward, backward and AdamW; medians of "
        f"{r['rounds']} rounds of one step each in turn. Goals: 1.08x the stock model's time, 1.05x its peak memory.\n",
        "| model | parameters M | step s | CPU s | time ratio | CPU ratio | peak MB | of it the model MB | ratios |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, v in r["variants"].items():
        lines.append(
            f"| {name} | {v['parameters'] / 1e6:.2f} | {v['step_s']:.3f} | {v['step_cpu_s']:.3f} "
            f"| **{v['time_ratio']:.3f}x** | {v['cpu_ratio']:.3f}x | {v['peak_memory_mb']:.0f} "
            f"| {v['above_imports_mb']:.0f} | **{v['memory_ratio']:.3f}x**, {v['above_imports_ratio']:.3f}x |"
        )
    lines += [
        "",
        f"The stock step takes {r['stock_step_gflop']:.1f} GFLOP (forward counted, backward twice that): "
        f"**{100 * r['share_of_matmul']:.0f} %** of the {r['matmul_gflops']:.0f} GFLOP/s that a matrix product reached "
        f"in the same rounds (goal: 40 %). At {r['wide']} layers of {r['wide_channels']} channels it is "
        f"**{100 * r['wide_share_of_matmul']:.0f} %**.",
        "",
    ]
    return "\n".join(lines)


def _loader(r: dict[str, Any]) -> str:
    lines = [
        "## Loading training clips\n",
        f"{r['measured']}, {r['machine']}; {r['clips']} clips of {r['bucket']} from {r['videos']}, batches of "
        f"{r['batch_size']}, medians of {r['rounds']} rounds of one batch each in turn. The ViViD layout yields pixels "
        "that still have to be encoded. Goals: cached latents 20x the speed of encoding on the fly, 3x that of the "
        "layout.\n",
        "| way | ms a clip | CPU ms a clip | clips/s | time ratio to cached | CPU ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, w in r["ways"].items():
        lines.append(
            f"| {name} | {w['wall_ms_per_clip']:.2f} | {w['cpu_ms_per_clip']:.2f} | {w['clips_per_second']:.1f} "
            f"| **{w['wall_ratio']:.1f}x** | {w['cpu_ratio']:.1f}x |"
        )
    memory = r["memory_mb"]
    lines += [
        "",
        f"In {r['steps']} steps of preset nano ({r['step_s']:.2f} s each, read in the training process) the wait for "
        f"data is **{100 * r['wait_share_median']:.2f} %** of a step (median; goal: 2 %), "
        f"{100 * r['wait_share_mean']:.2f} % of all time. A clip takes {r['cached_bytes_per_clip'] / 1000:.0f} kB. "
        f"Memory after one pass over the clips {memory['after one pass']:.0f} MB, after {r['epochs']} more "
        f"{memory['at the end']:.0f} MB.",
        "",
    ]
    return "\n".join(lines)


def _overfit(r: dict[str, Any]) -> str:
    before, after = r["before"], r["after"]
    lines = [
        "## Learning eight clips by heart\n",
        f"{r['measured']}, {r['machine']}; {r['clips']} rendered clips of {r['bucket']} ({r['interactive_clips']} with "
        f"an interaction), recipe overfit, {r['steps']} steps, {r['cpu_s']:.0f} CPU seconds, "
        f"{r['parameters'] / 1e6:.1f} M parameters from random weights. What the model makes of unseen pure noise in "
        "one step, where it repaints. Goal: a tenth of the error. The mean of all clips would have "
        f"{r['mean_clip_error']:.3f}.\n",
        "| | error of the latents | PSNR dB | nearest to its own clip | loss |",
        "|---|---|---|---|---|",
    ]
    for name, v, loss in (("before", before, r["first_loss"]), ("after", after, r["final_loss"])):
        lines.append(f"| {name} | {v['error']:.4f} | {v['psnr_db']:.1f} | {100 * v['recognised']:.0f} % | {loss:.3f} |")
    lines += ["", f"The error falls by **{r['error_ratio']:.1f}x**.", ""]
    return "\n".join(lines)


def _metrics(r: dict[str, Any]) -> str:
    paired, sets = r["paired_s"], r["set_s"]
    again, plain = sets["ours again"], sets["plain again"]
    lines = [
        "## Metrics\n",
        f"{r['measured']}, {r['machine']}; {r['videos']}, {r['frames']} frames; medians of {r['rounds']} rounds in "
        "turn. The plain loops hold whole videos, take a frame or a clip at a time and keep nothing.\n",
        "| what | ours s | plain s | ratio |",
        "|---|---|---|---|",
        f"| SSIM and LPIPS | {paired['ours']:.2f} | {paired['plain']:.2f} | **{r['paired_speedup']:.2f}x** |",
        f"| VFID and FVD by I3D | {sets['ours']:.2f} | {sets['plain']:.2f} | **{r['set_speedup']:.2f}x** |",
        f"| the same again | {again:.2f} | {plain:.2f} | **{r['set_speedup_again']:.1f}x** |",
        "",
        "| frames of a video | peak memory MB |",
        "|---|---|",
    ]
    lines += [f"| {length} | {mb:.0f} |" for length, mb in r["memory_mb"].items()]
    return "\n".join([*lines, ""])


def _tryon(r: dict[str, Any]) -> str:
    lines = [
        "## Try-on against the stock pipeline\n",
        f"{r['measured']}, {r['machine']}, {r['threads']} threads; {r['frames']}x{r['height']}x{r['width']} with a "
        f"garment, {r['steps']} steps, guidance {r['guidance_scale']:g}, fp32; the same weights, captions and noise, "
        f"added modules at zero; medians of {r['rounds']} rounds in turn. Goals: 0.65x the time of diffusers' "
        "WanVACEPipeline, largest difference of its latents 1e-3.\n",
        "| size | pipeline | seconds | CPU s | time ratio | CPU ratio | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, variants in r["sizes"].items():
        for name, v in variants.items():
            lines.append(
                f"| {size} | {name} | {v['wall_s']:.2f} | {v['cpu_s']:.2f} | **{v['time_ratio']:.3f}x** "
                f"| {v['cpu_ratio']:.3f}x | {v['max_difference']:.1e} |"
            )
    return "\n".join([*lines, ""])


def _scale(r: dict[str, Any]) -> str:
    names = list(r["lakes"])
    first = names[0]
    rounds = f"medians of up to {r['rounds']} rounds" if r["rounds"] > 1 else "one round"
    lines = [
        "## What a lake costs as it grows\n",
        f"{r['measured']}, {r['machine']}, one core, shared with other work: CPU seconds count, wall seconds are in "
        f"brackets. Generated rows, {r['frames_per_video']} frames a video, batches of {r['batch_videos']}; {rounds}, "
        "one lake after the other. Goals: adding a batch costs 1.2x of the same in an "
        "empty lake; a run with nothing to do reads and writes no blob (it would be stopped). "
        "See [Scale](../docs/scale.md).\n",
        "| lake | videos | frames | batches | table MB | log MB | files | blobs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        size, videos = r["sizes"][name], r["lakes"][name]
        batches = -(-videos // r["batch_videos"])
        lines.append(
            f"| {name} | {videos:,} | {videos * r['frames_per_video']:,} | {batches} | {size['table_bytes'] / 1e6:.1f} "
            f"| {size['log_bytes'] / 1e6:.1f} | {size['files']:,} | {size['blobs']:,} |"
        )
    heads = " | ".join(f"{n} s" for n in names)
    ratios = " | ".join(f"{n}, ratio" for n in names[1:])
    lines += ["", f"| what | {heads} | {ratios} |", "|---|" + "---|" * (2 * len(names) - 1)]
    adding = {n: _summed(r["operations"], n, ("ingest a batch", "commit a batch's annotations")) for n in names}
    for what, of in {**r["operations"], "**adding a batch**, both": adding}.items():
        cells = " | ".join(f"{of[n]['cpu_s']:.2f} ({of[n]['wall_s']:.1f})" for n in names)
        compared = " | ".join(f"{of[n]['cpu_s'] / of[first]['cpu_s']:.2f}x" for n in names[1:])
        lines.append(f"| {what} | {cells} | {compared} |")
    load = r["code_location"]
    lines += [
        "",
        f"Loading the code location and its asset graph in a new process takes {load['cpu_s']:.2f} s "
        f"({load['wall_s']:.1f}); it reads no lake.",
        "",
    ]
    return "\n".join(lines)


def _summed(operations: dict[str, Any], lake: str, names: tuple[str, ...]) -> dict[str, float]:
    return {key: sum(operations[n][lake][key] for n in names) for key in ("cpu_s", "wall_s")}


_SECTIONS = {
    "throughput": _throughput,
    "memory": _memory,
    "studio": _studio,
    "model": _model,
    "loader": _loader,
    "overfit": _overfit,
    "metrics": _metrics,
    "tryon": _tryon,
    "scale": _scale,
}
"""Benchmark -> its section, in order."""
