"""LoRA on queries and values, as papers on vision have it, as a PEFT tuner (Hu et al., ICLR 2022, arXiv 2106.09685)."""

from rlrr.tuners.lora_qv.config import LoRAQVConfig
from rlrr.tuners.lora_qv.layer import LoRAQVLayer
from rlrr.tuners.lora_qv.model import LoRAQVModel
from rlrr.tuners.registration import register

register(LoRAQVConfig, LoRAQVModel)

__all__ = ["LoRAQVConfig", "LoRAQVLayer", "LoRAQVModel"]
