"""The vision-language judge in this process: a transformers image-text-to-text model from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from models.judges.base import Judge, JudgeError, judge_digest
from models.judges.settings import LocalVlmJudgeSettings
from models.judges.voting import PROMPT_VERSION, VerdictAnswer, VotingJudge
from models.vlm.client import AnswerError, Message, Usage, extract_json

if TYPE_CHECKING:
    import torch


def make(settings: LocalVlmJudgeSettings | dict[str, Any], cache_dir: Path | None) -> Judge:
    """The judge; its weights are read when it is first asked.

    Raises:
        JudgeError: There is no model in the folder that the settings name.
    """
    return LocalVlmJudge(LocalVlmJudgeSettings.model_validate(settings))


class LocalVlmJudge(VotingJudge):
    """See the module.

    Args:
        settings: Folder of the model, pictures and votes.

    Raises:
        JudgeError: There is no model in the folder that the settings name.
    """

    def __init__(self, settings: LocalVlmJudgeSettings):
        super().__init__(settings)
        self.settings = settings
        if not settings.model:
            raise JudgeError(
                "judge local_vlm needs a model: set isr.local_vlm.model to the folder of an image-text-to-text model, "
                "such as a download of Qwen/Qwen2.5-VL-7B-Instruct"
            )
        self._folder = Path(settings.model).expanduser()
        if not (self._folder / "config.json").is_file():
            raise JudgeError(
                f"isr.local_vlm.model: {self._folder} holds no transformers model (config.json is missing); download "
                "one with `hf download MODEL --local-dir FOLDER`"
            )
        self.name = f"local_vlm {self._folder.name} prompt {PROMPT_VERSION}"
        asked = settings.model_dump(exclude={"model", "device"})
        # Gigabytes are not hashed for every run: names and sizes of the weights tell one model from another.
        files = sorted((p.name, p.stat().st_size) for p in self._folder.iterdir() if p.is_file())
        self.digest = judge_digest(self.name, asked, files)

    def ask(
        self, messages: Sequence[Message], pictures: Sequence[np.ndarray], labels: Sequence[str], vote: int
    ) -> tuple[VerdictAnswer, Usage]:
        """See `VotingJudge.ask`."""
        import torch
        from PIL import Image

        processor, model = self._loaded
        schema = VerdictAnswer.model_json_schema()
        # Not every chat template knows system messages.
        text = "\n\n".join(str(m["content"]) for m in messages)
        content: list[dict[str, Any]] = [
            {"type": "text", "text": f"{text}\n\nAnswer with one JSON object that fits this JSON schema:\n{schema}"}
        ]
        for picture, label in zip(pictures, labels, strict=True):
            content += [{"type": "text", "text": label}, {"type": "image", "image": Image.fromarray(picture)}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        for key, value in inputs.items():
            if hasattr(value, "is_floating_point") and value.is_floating_point():
                inputs[key] = value.to(model.dtype)
        asked = int(inputs["input_ids"].shape[1])
        usage, problem = Usage(), ""
        for attempt in range(self.settings.answer_attempts):
            with torch.random.fork_rng(), torch.inference_mode():
                torch.manual_seed(1000 * vote + attempt)
                out = model.generate(**inputs, **self._sampling)
            answered = out[0, asked:]
            usage += Usage(asked, len(answered), 1)
            said = processor.decode(answered, skip_special_tokens=True)
            try:
                return VerdictAnswer.model_validate_json(extract_json(said)), usage
            except ValidationError as error:
                problem = f"{error.error_count()} fields do not fit"
            except ValueError as error:
                problem = str(error)
        raise AnswerError(
            f"{self._folder.name} gave no answer that fits in {self.settings.answer_attempts} attempts; the last one: "
            f"{problem}",
            usage,
        )

    @property
    def _sampling(self) -> dict[str, Any]:
        warm = self.settings.temperature > 0
        how = {"do_sample": True, "temperature": self.settings.temperature} if warm else {"do_sample": False}
        return {"max_new_tokens": self.settings.max_tokens, **how}

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Processor and model.

        Raises:
            JudgeError: The folder cannot be read as such a model.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = self.settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            processor = AutoProcessor.from_pretrained(self._folder, local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(
                self._folder,
                local_files_only=True,
                dtype=self._dtype(torch.device(device)),
                use_safetensors=True,
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise JudgeError(f"{self._folder} cannot be read as an image-text-to-text model: {error}") from error
        return processor, model.eval().to(device)

    def _dtype(self, device: torch.device) -> Any:
        if self.settings.dtype != "auto":
            import torch

            return getattr(torch, self.settings.dtype)
        return "float32" if device.type == "cpu" else "auto"
