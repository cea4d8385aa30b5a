"""`manifest.jsonl` of a landing folder: one JSON object a video, saying what people know about it.

Only the format belongs here: whether the named files exist and spans lie inside of the video is checked by
`pipelines.ingest.batch`. A line that is wrong never stops the others.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipelines.store.schemas import ACTIONS

MANIFEST = "manifest.jsonl"
_MAX_LINE = 1 << 20
_MAX_LEVELS = 64  # pydantic writes about 255 and reads about 200, Python a thousand


def _relative(path: str) -> str:
    """A path below the landing folder, with forward slashes, in Unicode's composed form."""
    if not path.strip() or "\0" in path:
        raise ValueError("a path must not be empty")
    clean = PurePosixPath(unicodedata.normalize("NFC", path))
    if clean.is_absolute() or ".." in clean.parts or not clean.parts or "\\" in path or path[1:2] == ":":
        raise ValueError(f"{path!r} leaves the landing folder: write a path relative to it, with forward slashes")
    return str(clean)


RelativePath = Annotated[str, AfterValidator(_relative)]
Category = Literal["upper_body", "lower_body", "dresses"]


class ActionSpan(BaseModel):
    """One interaction of hand and garment, half-open in time."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    action: str = Field(description="One of the six interaction categories")
    start_s: float = Field(ge=0, description="Start, seconds from the first frame")
    end_s: float = Field(description="End, seconds, exclusive")
    text: str = Field("", description="What happens; the category in words if empty")

    @model_validator(mode="after")
    def _sensible(self) -> ActionSpan:
        if self.action not in ACTIONS:
            raise ValueError(f"unknown action {self.action!r}; it is one of {', '.join(ACTIONS)}")
        if self.end_s <= self.start_s:
            raise ValueError(f"the action ends at {self.end_s:g} s, not after its start at {self.start_s:g} s")
        self.text = self.text.strip() or self.action.replace("_", " ")
        return self


class ManifestEntry(BaseModel):
    """One line of the manifest. Further keys are kept as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    video: RelativePath = Field(description="Video file, relative to the landing folder")
    garment: RelativePath | None = Field(None, description="Product photo of the garment worn in the video")
    garment_mask: RelativePath | None = Field(None, description="Mask of that photo, white = garment")
    garment_category: Category | None = Field(None, description="Which garment is replaced")
    garment_caption: str | None = Field(None, description="Description of the garment")
    tryon_garment: RelativePath | None = Field(None, description="Product photo of the garment to put on")
    split: Literal["train", "val", "test"] | None = Field(None, description="Part of the data set")
    global_caption: str | None = Field(None, description="Caption of the whole video")
    actions: list[ActionSpan] = Field(default_factory=list, description="Interactions in the video")

    @model_validator(mode="before")
    @classmethod
    def _spelling(cls, values: Any) -> Any:
        # Unknown keys are kept, but a misspelt one would lose a label silently.
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields and (near := difflib.get_close_matches(key, cls.model_fields, 1, 0.8)):
                raise ValueError(f"unknown key {key!r}; is {near[0]!r} meant?")
        return values

    def as_json(self) -> str:
        """The entry as one line of JSON, without the keys that say nothing.

        An empty list of actions stays where somebody wrote it: it says that nothing is done to the garment, while no
        list says that nobody looked.
        """
        said = self.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        return json.dumps(said, ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True)
class ManifestLine:
    """One non-empty line: an entry, or what is wrong with it.

    Attributes:
        number: Line number from 1.
        entry: The entry, if the line is right.
        error: What is wrong, if it is not.
        video: The video the line names, as far as it could be read.
    """

    number: int
    entry: ManifestEntry | None = None
    error: str | None = None
    video: str | None = None

    @property
    def source(self) -> str:
        """How the line is named in tables and messages."""
        return f"{MANIFEST}:{self.number}"


def manifest_lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a manifest; of one that is too long only the beginning, so that none can fill the memory."""
    while line := stream.readline(_MAX_LINE + 1):
        rest = line
        while len(rest) > _MAX_LINE and not rest.endswith(b"\n"):
            rest = stream.readline(_MAX_LINE + 1)
        yield line


def parse_manifest(lines: Iterable[bytes]) -> Iterator[ManifestLine]:
    """Read a manifest's lines (UTF-8, one JSON object each; blank lines are skipped). Never raises for content."""
    seen: dict[str, int] = {}
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if not raw.strip():
            continue
        line = _parse_line(number, raw)
        if line.entry is not None:
            first = seen.setdefault(line.entry.video, number)
            if first != number:
                line = ManifestLine(number, error=f"{line.entry.video!r} was described by line {first} already")
        yield line


def read_json(raw: bytes) -> Any:
    """The JSON value of a line.

    Raises:
        ValueError: It is none in UTF-8, or holds what cannot be written anywhere: lists in lists without end, or half
            of a character, which JSON may name (`"\\ud800"`). Both failed the batch, not the line.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as e:
        raise ValueError("not UTF-8 text") from e
    except UnicodeEncodeError as e:
        raise ValueError("JSON with half of a character in it (a lone surrogate): write the whole character") from e
    except (ValueError, RecursionError) as e:
        raise ValueError(f"not JSON ({e})") from e
    if _deeper(value, _MAX_LEVELS):
        raise ValueError(f"JSON with more than {_MAX_LEVELS} levels of lists and objects in one another")
    return value


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(v, levels - 1) for v in inside)


def _parse_line(number: int, raw: bytes) -> ManifestLine:
    if len(raw) > _MAX_LINE:
        return ManifestLine(number, error=f"the line is longer than {_MAX_LINE} bytes")
    try:
        value = read_json(raw)
    except ValueError as e:
        return ManifestLine(number, error=f"the line is {e}")
    if not isinstance(value, dict):
        return ManifestLine(number, error=f"the line is a JSON {type(value).__name__}, an object is needed")
    try:
        return ManifestLine(number, entry=ManifestEntry.model_validate(value))
    except ValidationError as e:
        return ManifestLine(number, error=readable(e), video=_named_video(value))


def _named_video(value: dict[str, Any]) -> str | None:
    try:
        return _relative(value["video"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def readable(error: ValidationError) -> str:
    """What a validation error says, in one line for people."""
    parts = []
    for e in error.errors(include_url=False, include_context=False):
        where = ".".join(str(p) for p in e["loc"])
        message = e["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {message}" if where else message)
    return "; ".join(parts)
