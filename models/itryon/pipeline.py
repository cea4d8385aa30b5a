"""Try-on as a diffusers pipeline: frames, mask, pose, hands, garment and timed captions in, frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from models.itryon import conditioning
from models.itryon.blend import blend_back
from models.itryon.inputs import check_inputs
from models.itryon.losses import ActionSpan, num_latent_frames, segments_per_latent
from models.itryon.presets import WAN_WINDOW
from models.itryon.transformer import ITryOnTransformer3DModel
from models.itryon.windows import Crossfade, plan_windows
from models.text.encode import EMPTY_CAPTION, encode_captions

CaptionEmbeds = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Caption -> token embeddings (L, text_dim) and mask (L,)."""


@dataclass
class ITryOnPipelineOutput(BaseOutput):
    """Result of `ITryOnPipeline`.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB for output type `np`, a list of PIL images for `pil`, and for `latent` a list
            with the normalised latents (1, z, T, h, w) of each window, without reference frames.
    """

    frames: np.ndarray | list[Any]


class ITryOnPipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Dresses the person of a video in another garment, interactions included.

    Args:
        vae: Frozen video VAE.
        transformer: The iTryOn transformer.
        scheduler: A flow-matching scheduler.
        text_encoder: Text encoder whose width is the transformer's `text_dim`; None when embeddings are passed.
        tokenizer: Its tokenizer.
        num_frames: Frames of one window, 4n + 1.
        sizes: Heights and widths in pixels that the transformer was trained at, for whoever prepares the frames.
        max_text_length: Tokens to which the global caption is padded. Attention reads the padding, so they must be as
            many as the transformer was trained with: Wan's 512, or MiniLM's 64 for nano.
        max_action_text_length: Tokens of an action caption.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components: ClassVar[list[str]] = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "noise_pred"]

    def __init__(
        self,
        vae: AutoencoderKLWan,
        transformer: ITryOnTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: Any = None,
        tokenizer: Any = None,
        num_frames: int = WAN_WINDOW.num_frames,
        sizes: Sequence[tuple[int, int]] = WAN_WINDOW.sizes,
        max_text_length: int = 512,
        max_action_text_length: int = 32,
    ):
        super().__init__()
        num_latent_frames(num_frames)
        self.register_modules(
            vae=vae, transformer=transformer, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self.register_to_config(
            num_frames=num_frames,
            sizes=[tuple(size) for size in sizes],
            max_text_length=max_text_length,
            max_action_text_length=max_action_text_length,
        )
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Set it in a callback: the steps that remain are skipped."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    def encode_prompt(self, captions: Sequence[str], max_length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, max_length, text_dim) and mask of captions.

        Raises:
            ValueError: The pipeline has no text encoder, or one of another width.
        """
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("This pipeline has no text encoder: pass prompt_embeds and action_embeds")
        device = self._execution_device
        states, mask = encode_captions(self.tokenizer, self.text_encoder, captions, max_length, device)
        if states.shape[-1] != self.transformer.config.text_dim:
            raise ValueError(
                f"The text encoder gives {states.shape[-1]} channels, the transformer reads "
                f"{self.transformer.config.text_dim}: use MiniLM with the preset nano, UMT5 with 1.3b and 14b"
            )
        return states.to(device), mask.to(device)

    @torch.no_grad()
    def __call__(
        self,
        video: np.ndarray,
        mask: np.ndarray,
        agnostic_video: np.ndarray,
        garments: Sequence[np.ndarray | torch.Tensor],
        hand_video: np.ndarray | None = None,
        hand_points: np.ndarray | None = None,
        hand_present: np.ndarray | None = None,
        prompt: str | None = None,
        actions: Sequence[ActionSpan] = (),
        negative_action: str | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        conditioning_scale: float = 1.0,
        num_frames: int | None = None,
        overlap: int | None = None,
        previous_frames: np.ndarray | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        action_embeds: CaptionEmbeds | None = None,
        blend_edge: float | None = 2.0,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ITryOnPipelineOutput | tuple[Any]:
        """Generate.

        Args:
            video: Source frames at the model's size, (F, H, W, 3) uint8 RGB; H and W multiples of 8 x patch.
            mask: (F, H, W), nonzero = repaint.
            agnostic_video: Source with the mask painted grey and the pose drawn inside it, (F, H, W, 3) uint8.
            garments: One or more views of the garment: photos on white (h, w, 3) uint8, or pictures from
                `conditioning.reference_image`, (3, H, W).
            hand_video: Rendered hand meshes on black, (F, H, W, 3) uint8, for a guider that reads the render.
            hand_points: Point features of the hand meshes, (F, 16, H / 8, W / 8), for a guider that reads vertices;
                see `models.itryon.hand_points.frame_points`. Where neither is given, the guider is left out; where
                both are, it takes its own.
            hand_present: (F,), whether a hand is in the frame; by default, where its render or points are not all 0.
            prompt: Global caption.
            actions: Interactions, spans in frames of `video`.
            negative_action: Action caption that guidance leads away from where `actions` is empty. Without it, both
                halves are the same there, and hands that only pass over a zip may open it.
            num_inference_steps: Denoising steps.
            guidance_scale: Classifier-free guidance on captions; 1 or less switches it off.
            conditioning_scale: Weight of the VACE hints.
            num_frames: Frames of a window, 4n + 1; the pipeline's own by default.
            overlap: Frames that windows share at least; a quarter of the window by default.
            previous_frames: Frames (n, H, W, 3) uint8 that the video begins with and that are made already: the rest
                continues them. For videos that come in parts.
            generator: Source of the noise, for reproducible results.
            latents: Noise to start from, (1, z, R + T, h, w), for videos of one window.
            prompt_embeds: Embedded global caption (1, L, text_dim), in place of `prompt`.
            negative_prompt_embeds: Embedded empty caption (1, L, text_dim), for guidance without text encoder.
            action_embeds: Embeddings of action captions and of the empty caption, in place of the text encoder.
            blend_edge: Soft edge in pixels of putting the source back outside the mask; None returns all generated.
            output_type: `np`, `pil` or `latent`.
            return_dict: Whether to return an `ITryOnPipelineOutput` rather than a tuple.
            attention_kwargs: `scale` is the weight of LoRA adapters.
            callback_on_step_end: Called as (pipeline, step, timestep, tensors) behind every step; may return changed
                `latents`.
            callback_on_step_end_tensor_inputs: Tensors that the callback wants.

        Raises:
            ValueError: Inputs that do not fit each other or the model.
        """
        check_inputs(
            self.transformer,
            video,
            mask,
            agnostic_video,
            garments,
            hand_video,
            hand_points,
            previous_frames,
            output_type,
        )
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"Callback tensors {sorted(unknown)} are not among {self._callback_tensor_inputs}")
        self._interrupt = False
        device = self._execution_device
        total, height, width = mask.shape
        window = num_frames or self.config.num_frames
        if previous_frames is not None and len(previous_frames) > window:
            raise ValueError(f"{len(previous_frames)} previous_frames do not fit a window of {window} frames")
        windows = plan_windows(total, window, window // 4 if overlap is None else overlap)
        if latents is not None and len(windows) > 1:
            raise ValueError(f"Latents were given for one window, the video needs {len(windows)}")
        hands = hand_video if self.transformer.config.guider_input == "render" else hand_points
        if self.transformer.guider is None:
            hands = None
        if hands is not None and hand_present is None:
            hand_present = np.asarray(np.asarray(hands).reshape(total, -1).any(1))
        guided = guidance_scale > 1

        if prompt_embeds is None:
            prompt_embeds = self.encode_prompt([prompt or EMPTY_CAPTION], self.config.max_text_length)[0]
        if guided:
            if negative_prompt_embeds is None:
                negative_prompt_embeds = self.encode_prompt([EMPTY_CAPTION], self.config.max_text_length)[0]
            prompt_embeds = torch.cat([negative_prompt_embeds.to(prompt_embeds), prompt_embeds])
        avoided = [ActionSpan(0, total, negative_action)] if negative_action and guided and not actions else []
        spans = avoided or actions
        captions = self._caption_embeds(spans, action_embeds)
        references = conditioning.encode_references(
            self.vae,
            [
                (g if isinstance(g, torch.Tensor) else conditioning.reference_image(g, height, width)).to(device)
                for g in garments
            ],
        )

        crossfade = Crossfade()
        frames: list[np.ndarray] = []
        window_latents: list[torch.Tensor] = []
        with self.progress_bar(total=len(windows) * num_inference_steps) as progress:
            for start, stop in windows:
                index = np.minimum(np.arange(start, stop), total - 1)
                inputs = self._window_inputs(
                    agnostic_video[index],
                    mask[index],
                    None if hands is None else (hands[index], np.asarray(hand_present)[index]),
                    [ActionSpan(a.start - start, a.end - start, a.text) for a in spans],
                    references,
                    captions,
                    guided,
                    without_actions=1 if avoided else 0,
                )
                known = None
                if previous_frames is not None:
                    # As many as make whole latent frames.
                    begun = previous_frames[: (len(previous_frames) - 1) // 4 * 4 + 1]
                    encoded = conditioning.encode(self.vae, conditioning.to_model_range(begun).to(device))
                    known = (references.shape[2], encoded.float())
                clean = self._denoise(
                    inputs | {"encoder_hidden_states": prompt_embeds.to(device, self.transformer.dtype)},
                    latents,
                    known,
                    num_inference_steps,
                    guidance_scale,
                    conditioning_scale,
                    generator,
                    attention_kwargs,
                    progress,
                    callback_on_step_end,
                    callback_on_step_end_tensor_inputs,
                )[:, :, references.shape[2] :]
                following = next((s for s, _ in windows if s > start), stop)
                previous_frames = None
                if output_type != "latent" or following < stop:
                    picture = conditioning.from_model_range(conditioning.decode(self.vae, clean)[0])
                    previous_frames = picture[following - start :] if following < stop else None
                if output_type == "latent":
                    window_latents.append(clean)
                    continue
                frames.extend(crossfade.add(start, picture))
        self.maybe_free_model_hooks()
        if output_type == "latent":
            return ITryOnPipelineOutput(frames=window_latents) if return_dict else (window_latents,)
        frames = [*frames, *crossfade.finish()][:total]
        if blend_edge is not None:
            frames = [blend_back(s, f, m, blend_edge) for s, f, m in zip(video, frames, mask)]
        result = [Image.fromarray(f) for f in frames] if output_type == "pil" else np.stack(frames)
        return ITryOnPipelineOutput(frames=result) if return_dict else (result,)

    def _caption_embeds(self, actions: Sequence[ActionSpan], given: CaptionEmbeds | None) -> CaptionEmbeds:
        if not self.transformer.config.action_layers:
            return {}
        texts = list(dict.fromkeys([EMPTY_CAPTION, *(a.text for a in actions)]))
        if given is not None:
            missing = [t for t in texts if t not in given]
            if missing:
                raise ValueError(f"action_embeds lacks {missing}; the empty caption belongs to it")
            return given
        states, mask = self.encode_prompt(texts, self.config.max_action_text_length)
        return {t: (s, m) for t, s, m in zip(texts, states, mask)}

    def _window_inputs(
        self,
        agnostic: np.ndarray,
        mask: np.ndarray,
        hands: tuple[np.ndarray, np.ndarray] | None,
        actions: Sequence[ActionSpan],
        references: torch.Tensor,
        captions: CaptionEmbeds,
        guided: bool,
        without_actions: int,
    ) -> dict[str, torch.Tensor]:
        device, dtype = self._execution_device, self.transformer.dtype
        count = references.shape[2]
        control = conditioning.control_latents(
            self.vae,
            conditioning.to_model_range(agnostic).to(device),
            conditioning.mask_to_tensor(mask).to(device),
            references,
        )
        inputs = {"control_hidden_states": control.to(dtype)}
        if hands is not None:
            if self.transformer.config.guider_input == "render":
                frames = conditioning.to_model_range(hands[0]).to(device)
                latents, present = conditioning.hand_latents(self.vae, frames, hands[1], count)
            else:
                latents, present = conditioning.hand_point_latents(*hands, count)
            inputs |= {"hand_hidden_states": latents.to(device, dtype), "hand_frame_mask": present.to(device)}
        if captions:
            window = [a for a in actions if a.end > 0 and a.start < len(mask)]
            segments = segments_per_latent(window, len(mask), count)
            embedded = [captions[c] for c in segments.captions]
            inputs |= {
                "action_hidden_states": torch.stack([e for e, _ in embedded])[None].to(device, dtype),
                "action_attention_mask": torch.stack([m for _, m in embedded])[None].to(device),
                "segment_index": torch.from_numpy(segments.index)[None].to(device),
                "segment_interactive": torch.from_numpy(segments.interactive)[None].to(device),
            }
            if guided:
                # One half has the same segments, all of them without interaction: the unconditional one, or the other
                # one where it is led away from an interaction. Control channels and hands are common to both.
                names = ("action_hidden_states", "action_attention_mask", "segment_index", "segment_interactive")
                inputs |= {k: torch.cat([inputs[k], inputs[k]]) for k in names}
                states, tokens = captions[EMPTY_CAPTION]
                inputs["action_hidden_states"][without_actions] = states.to(device, dtype)
                inputs["action_attention_mask"][without_actions] = tokens.to(device)
                inputs["segment_interactive"][without_actions] = False
        return inputs

    def _denoise(
        self,
        inputs: dict[str, torch.Tensor],
        latents: torch.Tensor | None,
        known: tuple[int, torch.Tensor] | None,
        num_inference_steps: int,
        guidance_scale: float,
        conditioning_scale: float,
        generator: torch.Generator | None,
        attention_kwargs: dict[str, Any] | None,
        progress: Any,
        callback: Callable[..., dict[str, Any]] | None,
        callback_tensors: Sequence[str],
    ) -> torch.Tensor:
        device, dtype = self._execution_device, self.transformer.dtype
        size = inputs["control_hidden_states"].shape[2:]
        shape = (1, self.transformer.config.in_channels, *size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        elif latents.shape != shape:
            raise ValueError(f"Latents are {tuple(latents.shape)}, this window needs {shape}")
        latents = latents.to(device, torch.float32)
        scale = torch.full((len(self.transformer.config.vace_layers),), conditioning_scale, device=device, dtype=dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        noise = latents
        # What a step cache kept of the window before says nothing about this one.
        self.transformer._reset_stateful_cache()
        invariants = self.transformer.prepare_conditions(**inputs, attention_kwargs=attention_kwargs)
        for step, timestep in enumerate(self.scheduler.timesteps):
            if self._interrupt:
                break
            with self.transformer.cache_context("guided"):
                noise_pred = self.transformer(
                    latents.to(dtype),
                    timestep.expand(1),
                    control_hidden_states_scale=scale,
                    return_dict=False,
                    attention_kwargs=attention_kwargs,
                    invariants=invariants,
                )[0].float()
            if len(noise_pred) == 2:
                unconditional, conditional = noise_pred.chunk(2)
                noise_pred = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(noise_pred, timestep, latents, return_dict=False)[0]
            if known is not None:
                # What is known goes along with its own noise at the level of the step, so that the rest fits to it.
                where = slice(known[0], known[0] + known[1].shape[2])
                sigma = self.scheduler.sigmas[step + 1].to(latents)
                latents[:, :, where] = (1 - sigma) * known[1] + sigma * noise[:, :, where]
            if callback is not None:
                tensors = {"latents": latents, "noise_pred": noise_pred}
                changed = callback(self, step, timestep, {k: tensors[k] for k in callback_tensors}) or {}
                latents = changed.get("latents", latents)
            progress.update()
        return latents
