"""The `itryon` command line: land videos, run jobs through Dagster, look at what there is.

Everything it runs is a Dagster run, executed in this process so that progress bars have a terminal; the UI shows it
like any other. Commands stay thin: what they print is computed in `pipelines` or `dagster_project.reports`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dagster_project import checkpoints, evaluation, machine, tidying
from dagster_project.settings_file import read_settings
from dagster_project.terminal import Commands, ConfigOption, VerboseOption, console, fail, materialized

app = typer.Typer(
    cls=Commands,
    help="Interactive video virtual try-on: data and model pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(evaluation.app, name="evaluate")
app.add_typer(checkpoints.app)
app.add_typer(machine.app)
app.add_typer(tidying.app)


@app.command()
def ingest(
    path: Annotated[Path, typer.Argument(help="A video, or a folder with videos and optionally manifest.jsonl")],
    batch: Annotated[str, typer.Option(help="Name of the batch: letters, digits, dot, dash, underscore")],
    layout: Annotated[str, typer.Option(help="landing, vivid, or catv2ton (train_data.jsonl)")] = "landing",
) -> None:
    """Copy videos into the landing zone and make `videos` and `garments` of them."""
    from pipelines.ingest.importers import LAYOUTS
    from pipelines.store import DeltaStore

    if layout not in LAYOUTS:
        raise fail(f"unknown layout {layout!r}; one of: {', '.join(LAYOUTS)}")
    store = DeltaStore()
    store.ensure_tables()
    try:
        landed = LAYOUTS[layout](path, store, batch)
    except (OSError, ValueError, LookupError) as e:
        raise fail(str(e)) from e
    console.print(f"{len(landed.added)} new files in {landed.folder}", highlight=False)
    for name, reason in landed.refused.items():
        console.print(f"[yellow]left out[/] {escape(name)}: {escape(reason)}", highlight=False)
    try:
        materialized("annotate", batch, ["videos", "garments"])
    except typer.Exit:
        # The run fails where no file is usable, and then the reasons matter most: they are rows all the same.
        _print_videos(batch)
        raise
    _print_videos(batch)
    console.print(f"Next: itryon materialize --batch {batch}", highlight=False)


@app.command()
def materialize(
    batch: Annotated[str, typer.Option(help="Batch of videos")],
    to: Annotated[
        str | None, typer.Option(help="Stop at this asset; everything up to it is brought up to date")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Just this asset, with those that are only made together with it")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML: resource name -> settings, such as hands: {backend: hamer}")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Run assets of one batch through Dagster; what is up to date is not done again."""
    from dagster_project.reports import selected

    if to is not None and only is not None:
        raise fail("name either --to or --only")
    resources = read_settings(config)
    try:
        asset = only or to
        assets = selected(asset, upstream=not only) if asset else None
    except LookupError as e:
        raise fail(str(e)) from e
    materialized("everything", batch, assets, resources, verbose)
    status(as_json=False)


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False) -> None:
    """What is in the lake: batches, what each stage made of them, checkpoints, try-on videos."""
    from dagster_project.reports import lake_status, print_status
    from pipelines.store import DeltaStore

    report = lake_status(DeltaStore())
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_status(report, console)


@app.command()
def studio(
    clips: Annotated[int, typer.Option(help="Clips to render")] = 16,
    seed: Annotated[int, typer.Option(help="Same seed and version: the same frames, hash for hash")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the batch: videos, product pictures, manifest, truth")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Render into this batch of the lake instead, through Dagster")
    ] = None,
    size: Annotated[str, typer.Option(help="Width x height in pixels")] = "480x640",
    frames: Annotated[int, typer.Option(help="Frames of a clip")] = 65,
    fps: Annotated[float, typer.Option(help="Frames a second")] = 25.0,
    interaction_share: Annotated[
        float, typer.Option(help="Share of all frames in which an interaction happens")
    ] = 0.08,
    split: Annotated[str, typer.Option(help="Shares of clips for val and test")] = "0.1,0.1",
    action: Annotated[list[str] | None, typer.Option(help="Only these interactions")] = None,
    labels: Annotated[
        bool, typer.Option(help="Write interactions into the manifest, or let annotators find them")
    ] = True,
    counterfactual: Annotated[bool, typer.Option(help="Also render every clip in another garment")] = True,
    undone: Annotated[
        bool, typer.Option(help="Also render each interaction as it must not become, to measure judges on")
    ] = False,
    twins: Annotated[
        bool, typer.Option(help="List those other renderings as clips of their own: the same motion, done and not done")
    ] = False,
    neutral: Annotated[
        bool, typer.Option(help="Global captions that leave what the hands do to the action captions")
    ] = False,
    pantomime_share: Annotated[
        float, typer.Option(help="Share of the clips without an interaction in which one is mimed")
    ] = 0.26,
    plain: Annotated[bool, typer.Option(help="Only clothes of one colour without prints")] = False,
    white_beneath: Annotated[bool, typer.Option(help="White cloth beneath clothes that open")] = False,
    fabrics: Annotated[Path | None, typer.Option(help="Folder of photos to take fabrics from")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core by default")] = None,
) -> None:
    """Render interactive try-on video with exact truth, as a landing folder or straight into the lake."""
    from pydantic import ValidationError

    from pipelines.ingest.manifest import readable
    from pipelines.studio.settings import StudioSettings

    if (out is None) == (batch is None):
        raise fail("name either a folder (--out DIR) or a batch of the lake (--batch NAME)")
    try:
        width, height = (int(v) for v in size.lower().split("x"))
        val, test = (float(v) for v in split.split(","))
    except ValueError as e:
        raise fail(f"--size is like 480x640 and --split like 0.1,0.1 ({e})") from e
    values = {
        "clips": clips, "seed": seed, "width": width, "height": height, "frames": frames, "fps": fps,
        "interaction_share": interaction_share, "val_share": val, "test_share": test, "labels": labels,
        "counterfactual": counterfactual, "undone": undone, "twins": twins, "pantomime_share": pantomime_share,
        "plain": plain, "white_beneath": white_beneath, "neutral": neutral, "workers": workers,
        "fabrics": None if fabrics is None else str(fabrics),
    } | ({"actions": action} if action else {})  # fmt: skip
    try:
        settings = StudioSettings.model_validate(values)
    except ValidationError as e:
        raise fail(readable(e)) from e
    if batch is not None:
        materialized("studio", batch, ["studio_clips", "studio_frames", "studio_hands"], {"studio": values})
        console.print(f"Next: itryon materialize --batch {batch}", highlight=False)
        return
    assert out is not None
    from dagster_project.rendering import render_with_progress

    try:
        report = render_with_progress(settings, out, console)
    except (FileExistsError, FileNotFoundError, ValueError) as e:
        raise fail(str(e)) from e
    if report.failures:
        raise fail(f"{len(report.failures)} clips could not be rendered: {report.failures}")
    console.print(f"Next: itryon ingest {out} --batch NAME", highlight=False)


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Option(help="YAML: resource name -> settings, such as training: {steps: 500}")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Pin a training set from all clips and train a checkpoint on it, through Dagster."""
    materialized("model", None, ["training_set", "itryon_checkpoint"], read_settings(config), verbose)


@app.command()
def tryon(
    video: Annotated[Path | None, typer.Option(help="A video with one person, to dress by itself")] = None,
    garment: Annotated[Path | None, typer.Option(help="Photo of the garment for --video")] = None,
    out: Annotated[Path | None, typer.Option(help="mp4 to write for --video")] = None,
    category: Annotated[
        str | None, typer.Option(help="With --video: upper_body (the default), lower_body or dresses")
    ] = None,
    span: Annotated[
        list[str] | None,
        typer.Option(
            help="With --video: interaction as start,end,caption in seconds, instead of what is found; may be repeated"
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="With --video: caption of the whole video, instead of the automatic one")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="With --video: checkpoint folder; the lake's newest, or the embedded one, by default"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML: resource name -> settings, such as tryon: {steps: 30}")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Dress the person of one video, or those of the annotated videos of the lake through Dagster."""
    resources = read_settings(config)
    if video is None and garment is None and out is None:
        of_a_file = {"--category": category, "--span": span, "--prompt": prompt, "--checkpoint": checkpoint}
        if given := [name for name, value in of_a_file.items() if value]:
            raise fail(
                f"{', '.join(given)}: only with --video, --garment and --out. For the lake's videos, categories and "
                "captions come from the tables, and --config chooses the checkpoint: `tryon: {checkpoint: current}`"
            )
        materialized("model", None, ["tryon_videos"], resources, verbose)
        return
    if video is None or garment is None or out is None:
        raise fail("name all three: --video, --garment and --out")
    from dagster_project.dressing import dress_file, file_settings, parse_span

    try:
        settings, annotation = file_settings(resources)
        dress_file(
            video,
            garment,
            out,
            settings,
            annotation,
            console,
            checkpoint=checkpoint,
            category=category or "upper_body",
            spans=[parse_span(s) for s in span] if span else None,
            prompt=prompt,
        )
    except (OSError, ValueError, LookupError) as e:
        raise fail(str(e)) from e


@app.command()
def page(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 7860,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint folder; the lake's newest, or the embedded one, by default")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Open a page on this machine (loopback only) to dress a video by hand; needs the extra `page`."""
    from dagster_project.dressing import file_settings, load_checkpoint
    from dagster_project.page import PageUnavailable, gradio, serve

    try:
        gradio()
        settings, annotation = file_settings(read_settings(config))
        serve(load_checkpoint(checkpoint, settings, console), settings, annotation, port)
    except (PageUnavailable, OSError, ValueError, LookupError) as e:
        raise fail(str(e)) from e


@app.command()
def demo(batch: Annotated[str, typer.Option(help="Name of the demo batch")] = "demo") -> None:
    """Run everything on a small real clip and print where the results are."""
    from dagster_project.demo import prepare, print_results
    from dagster_project.downloads import fetch_with_progress

    fetch_with_progress(["demo", "demo_talk"], console, quiet=True, also_default=True)
    settings = prepare(batch, console)
    materialized("studio", batch, ["studio_clips", "studio_frames", "studio_hands"])
    materialized("everything", batch, None, settings)
    print_results(batch, console)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 3000,
    config: Annotated[Path | None, typer.Option(help="YAML as for `materialize`: the defaults of all runs")] = None,
) -> None:
    """Open the Dagster UI and daemon on this machine (loopback only)."""
    from dagster_project.instance import dagster_home, workspace
    from dagster_project.page import HOST
    from dagster_project.settings_file import CONFIG_ENV

    if config is not None:
        read_settings(config)
        os.environ[CONFIG_ENV] = str(config)
    home = dagster_home()
    # A tick reads tables: on a busy machine, or a lake that is far away, Dagster's 60 seconds are not enough.
    os.environ.setdefault("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "300")
    console.print(f"http://127.0.0.1:{port}   (DAGSTER_HOME={home})", highlight=False)
    # That `dagster dev` has a successor, another package, is nothing a user has to act on.
    python = [sys.executable, "-W", "ignore:Function `dev_command` is superseded"]
    os.execv(sys.executable, [*python, "-m", "dagster", "dev", "-w", str(workspace()), "-h", HOST, "-p", str(port)])


def _print_videos(batch: str) -> None:
    from dagster_project.reports import print_videos
    from pipelines.store import DeltaStore

    print_videos(DeltaStore(), batch, console)


if __name__ == "__main__":
    app()
