"""The model card of a checkpoint: README.md as the Hugging Face Hub reads it, made from the leaderboard.

Metadata is written by `huggingface_hub`, the text by a template. A figure that is missing is shown as missing, with the
reason. Nothing in it names a path, a file or a person of the machine that made it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors import safe_open

from models.itryon.embedded import EMBEDDED, names_folder
from models.itryon.presets import preset
from pipelines.evaluation.shown import shown
from pipelines.publish.evaluation import Evaluation, without_paths
from pipelines.publish.pictures import Choice
from pipelines.store.blobs import sha256_file
from pipelines.training_sets.contents import BatchPart

README = "README.md"
_TASK = "video-to-video"
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&])")
# The licence of the published weights of Wan2.1, which the presets 1.3b and 14b start from.
_WAN, _APACHE = "Wan-AI/Wan2.1-", "apache-2.0"


class LicenceUnknown(ValueError):
    """The licence of the weights has to be named by whoever publishes them."""


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Attributes:
        row: Row of the leaderboard.
        lineage: From `pipelines.checkpoints.lineage`, the checkpoint first.
        parts: Batches of its training set; empty where the pinned rows are gone.
        parts_missing: Why they are, for people.
        training: What `training.json` of the published folder says.
        evaluation: What was measured.
        choices: Videos with a picture.
        pictures_missing: Why there are none; empty where there are, or where there is nothing to show.
        licence: SPDX identifier.
    """

    row: dict[str, Any]
    lineage: list[dict[str, Any]]
    parts: list[BatchPart]
    parts_missing: str
    training: dict[str, Any]
    evaluation: Evaluation
    choices: list[Choice]
    pictures_missing: str
    licence: str

    @property
    def start(self) -> str | None:
        """What the oldest known training of the line started from: None for random weights, `embedded`, or a name."""
        return self.lineage[-1]["init_from"]

    @property
    def base_model(self) -> str | None:
        """The Hub model that the line started from."""
        lost = self.lineage[-1]["parent_checkpoint_id"] is not None
        return None if lost or self.start in (None, EMBEDDED) or names_folder(str(self.start)) else self.start


def licence_of(lineage: list[dict[str, Any]], asked: str | None) -> str:
    """The licence to put on the card: the one asked for, or that of what the weights started from.

    Raises:
        LicenceUnknown: They started from weights whose licence is not known here.
    """
    if asked:
        return asked
    root = lineage[-1]
    start = root["init_from"]
    known = start is None or start == EMBEDDED or start.startswith(_WAN)
    if not known or root["parent_checkpoint_id"] is not None:
        raise LicenceUnknown(
            "The licence of the weights that this checkpoint was trained from is not known: name the one to publish "
            "under with --license, such as --license apache-2.0"
        )
    return _APACHE


def write_card(facts: CardFacts, folder: Path) -> Path:
    """Write README.md into the folder with the published weights; returns it."""
    environment = Environment(
        loader=PackageLoader("pipelines.publish"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"md": escaped, "value": _value, "reason": lambda text: escaped(without_paths(text))}
    weights = sorted((folder / "transformer").glob("*.safetensors"))
    text = environment.get_template("model_card.md").render(
        facts=facts,
        row=facts.row,
        evaluation=facts.evaluation,
        metadata=metadata(facts).to_yaml(),
        parameters=_parameters(weights),
        files=[(f.name, f.stat().st_size / 1e6, sha256_file(f)) for f in weights],
        version=version("itryon-pipeline"),
        buckets=_buckets(facts.parts),
        encoders=_encoders(json.loads((folder / "transformer" / "config.json").read_text())),
        sizes=_sizes(facts.parts),
        arguments=_arguments(facts),
        sources=len({v.video_id for v in facts.evaluation.videos}),
        paired=sum(v.paired for v in facts.evaluation.videos if v.reason is None),
        unpaired=sum(not v.paired for v in facts.evaluation.videos if v.reason is None),
        failed=[v for v in facts.evaluation.videos if v.reason is not None],
        rendered=sum(p.clips for p in facts.parts if p.rendered),
        config=_shown_config(facts.training["config"]),
    )
    readme = folder / README
    readme.write_text(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n", encoding="utf-8")
    return readme


def metadata(facts: CardFacts) -> ModelCardData:
    """The front matter, with the figures that have a value for the Hub's tables."""
    row = facts.row
    return ModelCardData(
        license=facts.licence,
        library_name="diffusers",
        pipeline_tag=_TASK,
        tags=["itryon", "virtual-try-on", "video-virtual-try-on", "flow-matching", f"preset-{row['preset']}"],
        base_model=facts.base_model,
        model_name=f"iTryOn {row['preset']} {row['checkpoint_id']}",
        eval_results=_results(facts) or None,
    )


def _results(facts: CardFacts) -> list[EvalResult]:
    row = facts.row
    common: dict[str, Any] = {
        "task_type": _TASK,
        "task_name": "Interactive video virtual try-on",
        "dataset_type": "private",
        "dataset_name": f"evaluation set {(row['evaluation_digest'] or 'unknown')[:12]}",
    }
    found = [
        EvalResult(**common, metric_type=m["metric"], metric_name=f"{m['metric']}, mode {m['mode']}", metric_value=v)
        for m in row["metrics"]
        if (v := m["value"]) is not None
    ]
    if row["isr"] is not None:
        kappa = row["judge_kappa"]
        agreement = "never validated" if kappa is None else f"whose kappa with known truth is {kappa:.2f}"
        name = f"ISR, by judge {row['judge']}, {agreement}"
        found.append(EvalResult(**common, metric_type="isr", metric_name=name, metric_value=row["isr"]))
    return found


def escaped(text: str) -> str:
    """Text as one line of Markdown that shows it as it is: no markup, no HTML, no end of a table's cell."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _value(measure: dict[str, Any]) -> str:
    """A figure with its interval, in digits that suit its size."""
    large = measure["value"] is not None and abs(measure["value"]) >= 100
    return shown(measure["value"], measure["low"], measure["high"], digits=0 if large else 3)


def _parameters(files: list[Path]) -> int:
    total = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                size = 1
                for n in tensors.get_slice(name).get_shape():
                    size *= n
                total += size
    return total


def _buckets(parts: list[BatchPart]) -> list[tuple[int, int, int]]:
    """Frames, height and width of the training clips."""
    found = {tuple(int(n) for n in b.split("x")) for p in parts for b in p.buckets}
    return sorted((f, h, w) for f, h, w in found)


def _sizes(parts: list[BatchPart]) -> list[tuple[int, int]]:
    """Height and width of the training clips, the tallest first."""
    return sorted({(h, w) for _, h, w in _buckets(parts)}, reverse=True)


def _encoders(config: dict[str, Any]) -> str:
    """Whose autoencoder and text encoder fit a transformer: `embedded`, `wan`, or nobody's that is known here."""
    for name, encoders in (("nano", "embedded"), ("1.3b", "wan")):
        if all(config[k] == preset(name)[k] for k in ("text_dim", "in_channels")):
            return encoders
    return ""


def _arguments(facts: CardFacts) -> str:
    """Of `TryOnSettings`, those that the training decides, as they are written in a call."""
    values: dict[str, Any] = {}
    if buckets := _buckets(facts.parts):
        values = {"num_frames": buckets[-1][0], "sizes": _sizes(facts.parts)}
    values["flow_shift"] = facts.training["config"]["flow_shift"]
    return ", ".join(f"{k}={v!r}" for k, v in values.items())


def _shown_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without what changes no weight."""
    from models.training.config import WITHOUT_EFFECT

    return {k: v for k, v in sorted(config.items()) if k not in WITHOUT_EFFECT and v is not None and v != {}}
