"""Jobs: one for each half of the pipeline, one for all of it."""

import dagster as dg

ANNOTATION_GROUPS = ("ingest", "annotations")
MODEL_GROUPS = ("training", "tryon", "evaluation")

annotate = dg.define_asset_job(
    "annotate",
    selection=dg.AssetSelection.groups(*ANNOTATION_GROUPS),
    description="Raw videos of one batch to pose, hands, masks, captions and training clips",
    tags={"half": "annotation"},
)

model = dg.define_asset_job(
    "model",
    selection=dg.AssetSelection.groups(*MODEL_GROUPS),
    description="All clips to a training set, a checkpoint, try-on videos, metrics and interaction success rates",
    tags={"half": "model"},
)

everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.groups(*ANNOTATION_GROUPS, *MODEL_GROUPS),
    description="One batch all the way from raw videos to interaction success rates",
)

studio = dg.define_asset_job(
    "studio",
    selection=dg.AssetSelection.groups("studio") - dg.AssetSelection.assets("annotator_report", "judge_report"),
    description="Renders a batch of interactive try-on videos and takes their truth into the lake",
)

studio_report = dg.define_asset_job(
    "studio_report",
    selection=dg.AssetSelection.assets("annotator_report"),
    description="Measures the annotators of a rendered, annotated batch against its truth",
)

judge = dg.define_asset_job(
    "judge",
    selection=dg.AssetSelection.assets("judge_report"),
    description="Measures the judge of interactions on a rendered, annotated batch against its truth",
)

promote = dg.define_asset_job(
    "promote",
    selection=dg.AssetSelection.assets("leaderboard", "promotions"),
    description="Decides whether the checkpoint evaluated last becomes the current one",
)

retrain = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.groups(*MODEL_GROUPS, "promotion"),
    description="New clips with replay, from the current checkpoint: trained, evaluated on fixed videos, decided on",
    tags={"half": "model"},
)

all_jobs = [annotate, model, everything, studio, studio_report, judge, promote, retrain]
