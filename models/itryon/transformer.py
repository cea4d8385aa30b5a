"""The iTryOn transformer: Wan2.1-VACE with an Interaction Guider and action captions through A-RoPE.

A subclass of diffusers' `WanVACETransformer3DModel` whose parameters are the stock ones, under the stock names, plus
`guider.*`, `blocks.<i>.attn_action.*` and `blocks.<i>.norm_action.*`. The added outputs start at zero, so a model
filled from a public checkpoint gives the stock model's output to the bit.

Where things sit:

- The guider adds to the patch tokens once, before the VACE branch and the blocks.
- Action attention follows the text cross-attention inside the main blocks of `action_layers`, before the feed-forward
  network, so that a block reads the caption before it transforms.
- VACE hints are added inside the block and not behind it as in the stock model: step caches skip blocks, and a hint
  added outside is added to the cached result a second time (FirstBlockCache and MagCache are wrong on the stock model).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch
from diffusers import ContextParallelConfig, ModelMixin, WanVACETransformer3DModel  # noqa: F401 - see below
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.peft_utils import apply_lora_scale
from torch import nn

from models.itryon.a_rope import ActionAttention
from models.itryon.attention import fold_padding, reads_bias
from models.itryon.block import ITryOnTransformerBlock, ITryOnVACETransformerBlock, modulated
from models.itryon.guider import GuiderInput, InteractionGuider
from models.itryon.hand_points import POINT_CHANNELS
from models.itryon.invariants import StepInvariants, plain_conditions, projected

# `DiffusionPipeline.from_pretrained` looks for `ModelMixin` in the module of a component's class.


Prediction = Literal["velocity", "sample"]
_LEAST_SIGMA = 0.05


class ITryOnTransformer3DModel(WanVACETransformer3DModel):
    """Wan2.1-VACE transformer with hand and action guidance (iTryOn, arXiv 2605.21431, sections 3.4 and 3.5).

    Args:
        guider_dim: Channels inside the Interaction Guider; None builds none.
        guider_heads: Heads of its self-attention.
        guider_input: What it reads: `render` are latents of the rendered hand video, `vertices` point features of the
            hand mesh (`models.itryon.hand_points`).
        action_layers: Main blocks with action attention; empty builds none.
        action_separation: k of A-RoPE.
        action_theta: RoPE base of A-RoPE.
        action_hard_mask: Let a latent frame see its own segment's caption only.
        prediction: What the last layer gives: `velocity` as in Wan, or `sample`, the clean latents, from which the
            velocity follows. A narrow network cannot carry the noise of a patch through its tokens, which a velocity
            needs and clean latents do not.

    The other arguments are those of `WanVACETransformer3DModel`.
    """

    _no_split_modules: ClassVar[list[str]] = ["ITryOnTransformerBlock", "ITryOnVACETransformerBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["ITryOnTransformerBlock", "ITryOnVACETransformerBlock"]
    _keep_in_fp32_modules: ClassVar[list[str]] = [*WanVACETransformer3DModel._keep_in_fp32_modules, "norm_action"]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        vace_layers: list[int] = [0, 5, 10, 15, 20, 25, 30, 35],  # noqa: B006 - the stock default, never changed
        vace_in_channels: int = 96,
        guider_dim: int | None = 384,
        guider_heads: int = 6,
        action_layers: list[int] = [0, 5, 10, 15, 20, 25, 30, 35],  # noqa: B006
        action_separation: float = 4.0,
        action_theta: float = 10000.0,
        action_hard_mask: bool = False,
        guider_input: GuiderInput = "render",
        prediction: Prediction = "velocity",
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
            vace_layers=vace_layers,
            vace_in_channels=vace_in_channels,
        )
        if patch_size[0] != 1:
            raise ValueError(f"Segments are given per latent frame: the temporal patch must be 1, not {patch_size[0]}")
        if not set(action_layers) <= set(range(num_layers)):
            raise ValueError(f"Action layers {action_layers} exceed the {num_layers} blocks")
        if guider_input not in get_args(GuiderInput):
            raise ValueError(f"The guider reads render or vertices, not {guider_input!r}")
        if prediction not in get_args(Prediction):
            raise ValueError(f"The network predicts velocity or sample, not {prediction!r}")
        dim = num_attention_heads * attention_head_dim
        self.blocks = nn.ModuleList(
            ITryOnTransformerBlock(
                dim,
                ffn_dim,
                num_attention_heads,
                qk_norm,
                cross_attn_norm,
                eps,
                added_kv_proj_dim,
                with_action=i in action_layers,
            )
            for i in range(num_layers)
        )
        self.vace_blocks = nn.ModuleList(
            ITryOnVACETransformerBlock(
                dim,
                ffn_dim,
                num_attention_heads,
                qk_norm,
                cross_attn_norm,
                eps,
                added_kv_proj_dim,
                apply_input_projection=i == 0,
                apply_output_projection=True,
            )
            for i in range(len(vace_layers))
        )
        self.guider = None
        if guider_dim is not None:
            self.guider = InteractionGuider(self.hand_channels, dim, guider_dim, guider_heads, patch_size)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> Any:
        """Load an iTryOn checkpoint, or a stock Wan2.1-VACE one whose missing iTryOn modules start at zero output.

        Args and result are those of diffusers' `from_pretrained`; configuration values may be given as keywords, for
        instance `action_layers`.

        Raises:
            ValueError: The checkpoint lacks parameters of the stock model, or only a part of an added module.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            model.initialise_added(set(info["missing_keys"]), pretrained_model_name_or_path)
        return (model, info) if wants_info else model

    @property
    def hand_channels(self) -> int:
        """Channels of `hand_hidden_states`."""
        return self.config.in_channels if self.config.guider_input == "render" else POINT_CHANNELS

    def added_modules(self) -> dict[str, nn.Module]:
        """Name -> module of everything that the stock model does not have."""
        found: dict[str, nn.Module] = {} if self.guider is None else {"guider": self.guider}
        for i, block in enumerate(self.blocks):
            modules = {name: getattr(block, name) for name in ("attn_action", "norm_action")}
            found |= {f"blocks.{i}.{name}": module for name, module in modules.items() if module is not None}
        return found

    def initialise_added(self, missing: set[str], source: Any = "the checkpoint") -> None:
        """Give added modules their starting weights: those named in `missing`, which a loader left without memory.

        Raises:
            ValueError: `missing` names anything but whole added modules.
        """
        rest = set(missing)
        for name, module in self.added_modules().items():
            own = {f"{name}.{key}" for key in module.state_dict()}
            if not own <= rest:
                continue
            rest -= own
            module.to_empty(device=self.device)
            for child in module.modules():
                if callable(reset := getattr(child, "reset_parameters", None)):
                    reset()
            if isinstance(module, (InteractionGuider, ActionAttention)):
                module.reset_output()
            if not name.endswith("norm_action"):
                module.to(self.dtype)
        if rest:
            raise ValueError(
                f"{source} lacks {len(rest)} parameters of this model, such as {min(rest)}: it is another preset's "
                "checkpoint, or a damaged one"
            )

    def enable_cache(self, config: Any) -> None:
        """Switch on a step cache of diffusers: `FirstBlockCacheConfig`, exact at threshold 0 and lossy above.

        Raises:
            ValueError: Another cache; the message says why.
        """
        # Registered here and not at import: the registry pulls in every transformer of diffusers.
        from diffusers import FirstBlockCacheConfig
        from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

        if not isinstance(config, FirstBlockCacheConfig):
            raise ValueError(
                f"{type(config).__name__} was not shown to save time and give the right result on this model, see Step "
                "caches in docs/architecture.md: use FirstBlockCacheConfig"
            )
        TransformerBlockRegistry.register(
            ITryOnTransformerBlock,
            TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
        )
        super().enable_cache(config)

    def enable_parallelism(self, *, config: Any, cp_plan: Any = None) -> None:
        """As in diffusers, without context parallelism.

        Raises:
            NotImplementedError: Context parallelism was asked for.
        """
        if isinstance(config, ContextParallelConfig) or getattr(config, "context_parallel_config", None) is not None:
            raise NotImplementedError(
                "Context parallelism gives each device a part of the patch tokens. diffusers has no plan for VACE "
                "models (their `_cp_plan` is None), and A-RoPE's angles and gates, which go along the tokens, are not "
                "split by a plan either. Use DDP over clips, offloading or gradient checkpointing instead"
            )
        super().enable_parallelism(config=config, cp_plan=cp_plan)

    @apply_forward_hook
    @apply_lora_scale("attention_kwargs")
    @torch.no_grad()
    def prepare_conditions(
        self,
        encoder_hidden_states: torch.Tensor,
        control_hidden_states: torch.Tensor,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        **conditions: torch.Tensor | None,
    ) -> StepInvariants:
        """All that `forward` makes of the conditions, once for all denoising steps; pass it as `invariants`.

        For inference: no gradient goes through it, and it is stale as soon as weights change. Captions may be of B
        clips and control and hands of one: B captions of the same clip, as guidance needs them.

        Args:
            encoder_hidden_states: Global captions, (B, L, text_dim).
            control_hidden_states: VACE control channels, (B or 1, 2 z + 64, T, H, W).
            attention_kwargs: `scale` is the LoRA scale.
            **conditions: Hands and actions by the names of `forward`; hands with the batch size of the control
                channels, actions with that of the captions.

        Raises:
            ValueError: As in `forward`; or a model with image attention, whose states have no prepared form.
        """
        if self.config.added_kv_proj_dim is not None:
            raise ValueError("Models with image attention (added_kv_proj_dim) have no prepared conditions")
        captions, bias = encoder_hidden_states, None
        if all(reads_bias(block.attn2) for block in (*self.blocks, *self.vace_blocks)):
            captions, bias = fold_padding(captions)
        control = control_hidden_states
        return projected(self, plain_conditions(self, control, captions, None, control, **conditions), bias)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_hidden_states_image: torch.Tensor | None = None,
        control_hidden_states: torch.Tensor | None = None,
        control_hidden_states_scale: torch.Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        invariants: StepInvariants | None = None,
        **conditions: torch.Tensor | None,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict the flow-matching velocity of noisy latents.

        T latent frames include the prepended reference frames (garments); z channels are the VAE's.

        Args:
            hidden_states: Noisy latents, (B, z, T, H, W); H and W multiples of the patch. With `invariants` of several
                captions of one clip, (1, z, T, H, W).
            timestep: (B,), 0 to 1000; (1,) with `invariants`.
            encoder_hidden_states: Global caption, (B, L, text_dim).
            encoder_hidden_states_image: As in the stock model.
            control_hidden_states: VACE control channels, (B, 2 z + 64, T, H, W).
            control_hidden_states_scale: Weight of each VACE layer, (number of VACE layers,).
            return_dict: Whether to return a `Transformer2DModelOutput` rather than a tuple.
            attention_kwargs: `scale` is the LoRA scale.
            invariants: From `prepare_conditions`, in place of captions, control channels and conditions.
            **conditions: Hands and actions, each optional.
                hand_hidden_states: What the guider reads: latents of the rendered hand video, (B, z, T, H, W), or
                    point features, (B, 64, T, H, W); None leaves the guider out.
                hand_frame_mask: (B, T), 1 where a hand is present in the latent frame, 0 on reference frames.
                action_hidden_states: Captions of the segments in time order, (B, S, L, text_dim), the empty caption for
                    non-interactive ones; None leaves action attention out.
                action_attention_mask: (B, S, L), 1 on caption tokens; all 0 for segments that pad a batch.
                segment_index: (B, T) integers, the segment 1..S of each latent frame, 0 on reference frames.
                segment_interactive: (B, S), whether the segment is an interaction.

        Returns:
            Velocity, (B, z, T, H, W), B that of the captions.

        Raises:
            ValueError: Shapes that do not fit each other, or conditions of a module that this model does not have.
        """
        _, _, num_frames, height, width = hidden_states.shape
        _, patch_h, patch_w = self.config.patch_size
        rows, columns = height // patch_h, width // patch_w
        if invariants is None:
            image, control = encoder_hidden_states_image, control_hidden_states
            invariants = plain_conditions(self, hidden_states, encoder_hidden_states, image, control, **conditions)
        elif conditions or encoder_hidden_states is not None or control_hidden_states is not None or len(timestep) > 1:
            raise ValueError("With invariants, pass latents and one timestep alone: the conditions are in them")
        if control_hidden_states_scale is None:
            control_hidden_states_scale = invariants.control.new_ones(len(self.config.vace_layers))
        if len(control_hidden_states_scale) != len(self.config.vace_layers):
            raise ValueError(
                f"{len(control_hidden_states_scale)} control scales for {len(self.config.vace_layers)} VACE layers"
            )
        scales = torch.unbind(control_hidden_states_scale)

        noisy = hidden_states
        hidden_states = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
        if invariants.hands is not None:
            hidden_states = hidden_states + invariants.hands
        control = invariants.control
        if control.size(1) < hidden_states.size(1):
            padding = control.new_zeros(len(control), hidden_states.size(1) - control.size(1), control.size(2))
            control = torch.cat([control, padding], dim=1)
        temb, timestep_proj = self._embed_timestep(timestep, control.dtype)

        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing

        def run(block: nn.Module, *args: Any) -> Any:
            return self._gradient_checkpointing_func(block, *args) if checkpointing else block(*args)

        hints = {}
        vace = zip(self.config.vace_layers, scales, self.vace_blocks, invariants.vace_text)
        for layer, scale, block, text in vace:
            hint, control = run(block, hidden_states, text, control, timestep_proj, invariants.rotary)
            hints[layer] = (hint, scale)
        main = zip(self.blocks, invariants.text, invariants.action)
        for i, (block, text, action) in enumerate(main):
            hint = hints.pop(i, (None, 1.0))
            hidden_states = run(block, hidden_states, text, timestep_proj, invariants.rotary, action, *hint)

        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).chunk(2, dim=1)
        shift, scale = shift.to(hidden_states.device), scale.to(hidden_states.device)
        hidden_states = modulated(self.norm_out, hidden_states, scale, shift, invariants.prepared)
        patches = (
            self.proj_out(hidden_states)
            .unflatten(1, (num_frames, rows, columns))
            .unflatten(-1, (1, patch_h, patch_w, -1))
        )
        output = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        if self.config.prediction == "sample":
            # x_sigma = x_0 + sigma v. Near sigma 0 the division would blow up the least error.
            sigma = (timestep.to(output.device, torch.float32) / 1000).clamp(min=_LEAST_SIGMA).view(-1, 1, 1, 1, 1)
            output = ((noisy.float() - output.float()) / sigma).type_as(output)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _embed_timestep(self, timestep: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding (B, dim) and modulation (B, 6, dim) of timesteps: the stock embedder without its text."""
        embedder = self.condition_embedder
        frequencies = embedder.timesteps_proj(timestep)
        own = next(iter(embedder.time_embedder.parameters())).dtype
        if own != torch.int8:  # quantised weights take what comes
            frequencies = frequencies.to(own)
        temb = embedder.time_embedder(frequencies).to(dtype)
        return temb, embedder.time_proj(embedder.act_fn(temb)).unflatten(1, (6, -1))
