"""A sampler for shifted bottlenecks, and real pictures inverted for it."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...core.errors import UserError
from .. import host
from ..connected import Node
from ..inputs import cfg_input, seed_input
from .directions import CATEGORY

ETA = "The share of DDPM's noise that each step adds, 0 to 1; 0: none, as in DDIM."


class SamplerAsyrp(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SamplerAsyrp",
            display_name="Sampler Asyrp",
            category=CATEGORY,
            description="DDIM that shifts the bottleneck for the predicted picture only, not for the predicted noise: "
            "you see more of the shift, at twice the time.",
            search_aliases=["asymmetric", "ddim", "semantic", "bottleneck"],
            inputs=[io.Float.Input("eta", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=ETA)],
            outputs=[io.Sampler.Output("sampler", display_name="sampler", tooltip="For SamplerCustom.")],
        )

    @classmethod
    def execute(cls, eta: float) -> io.NodeOutput:
        return io.NodeOutput(host.asyrp_sampler(eta))


class HSpaceInvert(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HSpaceInvert",
            display_name="h-space Invert",
            category=CATEGORY,
            description="Finds the noise that your own picture comes from, and a sampler that turns it back into "
            "exactly that picture or, with a direction in the model, into an edit of it.",
            search_aliases=["inversion", "unsample", "real picture", "edit friendly", "ddim"],
            inputs=[
                io.Model.Input("model", tooltip="The model without directions."),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Latent.Input("latent_image", tooltip="The picture, from VAE Encode."),
                io.Sigmas.Input("sigmas", tooltip="From a scheduler. Give SamplerCustom the same ones."),
                cfg_input(2.5),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=f"{ETA} Above 0 the picture is inverted in DDPM's noise space, which preserves it better "
                    "under edits; at 0 by DDIM.",
                ),
                seed_input("The seed of the noise; used with eta above 0."),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The noise, for SamplerCustom."),
                io.Sampler.Output(
                    "sampler",
                    display_name="sampler",
                    tooltip="For SamplerCustom, with add_noise off and the same sigmas.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Tensor],
        sigmas: Tensor,
        cfg: float,
        eta: float,
        seed: int,
    ) -> io.NodeOutput:
        latents = latent_image["samples"]
        if not latents.count_nonzero():
            raise UserError("The latent is empty; connect a picture through VAE Encode.")
        noise, sampler = host.inverted(
            model,
            positive,
            negative,
            latents,
            sigmas,
            mask=latent_image.get("noise_mask"),
            cfg=cfg,
            eta=eta,
            seed=seed,
            progress=host.progress(),
        )
        # Nothing else of the latent: the host would keep what is outside of a noise mask, which is noise here.
        return io.NodeOutput({"samples": noise}, sampler)
