"""Networks of the package transformers, built from small configurations, and some of the size that people use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tests.zoo.network import Example, Network, images, tokens, waves


class Only(nn.Module):
    """A network that answers with one tensor of what the wrapped one gives."""

    def __init__(self, body: nn.Module, field: str, **options: Any) -> None:
        super().__init__()
        self.body, self.field, self.options = body, field, options

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self.body(x, **self.options), self.field)


def hub(
    model: str,
    config: str,
    inputs: Callable[[], Tensor],
    field: str = "last_hidden_state",
    call: dict[str, Any] | None = None,
    **values: Any,
) -> Callable[[], Example]:
    """A network of transformers.

    Args:
        model: The class of the model.
        config: The class of its configuration.
        inputs: Makes its input.
        field: What of its answer is taken.
        call: Options of the call.
        values: Of the configuration.
    """

    def make() -> Example:
        import transformers

        settings = getattr(transformers, config)(**values)
        body = getattr(transformers, model)(settings)
        return Example(Only(body, field, **(call or {})), (inputs(),))

    return make


def gpt2() -> Example:
    options: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200, "n_positions": 64}
    return hub("GPT2Model", "GPT2Config", lambda: tokens(200, 32), call={"use_cache": False}, **options)()


SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
WORDS: dict[str, Any] = {**SMALL, "vocab_size": 200, "max_position_embeddings": 66, "pad_token_id": 0}
STEPWISE: dict[str, Any] = {"call": {"use_cache": False}}
SOUND: dict[str, Any] = {
    **SMALL,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 8, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def text(model: str, config: str, length: int = 32, **values: Any) -> Network:
    return Network(
        "language", hub(model, config, lambda: tokens(200, length), **{**WORDS, **values}), ("transformers",)
    )


def picture(model: str, config: str, size: int = 64, aim: float | None = None, **values: Any) -> Network:
    return Network("transformer", hub(model, config, lambda: images(3, size), **values), ("transformers",), aim)


def whisper() -> Example:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    return Example(Only(WhisperEncoder(config), "last_hidden_state"), (waves(80, 3000),))


def t5_encoder() -> Example:
    options: dict[str, Any] = {
        "d_model": 64,
        "num_layers": 2,
        "num_heads": 4,
        "d_kv": 16,
        "d_ff": 128,
        "vocab_size": 200,
    }
    return hub("T5EncoderModel", "T5Config", lambda: tokens(200, 32), **options)()


NETWORKS = {
    "bert_small_128": Network(
        "language",
        hub(
            "BertModel",
            "BertConfig",
            lambda: tokens(1000, 128),
            vocab_size=1000,
            hidden_size=512,
            num_hidden_layers=4,
            num_attention_heads=8,
            intermediate_size=2048,
        ),
        ("transformers",),
        2.0,
    ),
    "bert": text("BertModel", "BertConfig"),
    "roberta": text("RobertaModel", "RobertaConfig"),
    "distilbert": Network(
        "language",
        hub(
            "DistilBertModel",
            "DistilBertConfig",
            lambda: tokens(200, 32),
            vocab_size=200,
            dim=64,
            n_layers=2,
            n_heads=4,
            hidden_dim=128,
        ),
        ("transformers",),
    ),
    "electra": text("ElectraModel", "ElectraConfig", embedding_size=32),
    "albert": text("AlbertModel", "AlbertConfig", embedding_size=32),
    "mobilebert": text(
        "MobileBertModel", "MobileBertConfig", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32
    ),
    "deberta_v2": text("DebertaV2Model", "DebertaV2Config", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "modernbert": text(
        "ModernBertModel", "ModernBertConfig", cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2
    ),
    "gpt2": Network("language", gpt2, ("transformers",)),
    "llama": text("LlamaModel", "LlamaConfig", num_key_value_heads=2, **STEPWISE),
    "qwen3": text("Qwen3Model", "Qwen3Config", num_key_value_heads=2, head_dim=16, **STEPWISE),
    "gemma": text("GemmaModel", "GemmaConfig", num_key_value_heads=2, head_dim=16, **STEPWISE),
    "phi": text("PhiModel", "PhiConfig", **STEPWISE),
    "bitnet": text("BitNetModel", "BitNetConfig", num_key_value_heads=2, **STEPWISE),
    "t5_encoder": Network("language", t5_encoder, ("transformers",)),
    "mamba": Network(
        "language",
        hub(
            "MambaModel",
            "MambaConfig",
            lambda: tokens(200, 8),
            hidden_size=32,
            num_hidden_layers=1,
            vocab_size=200,
            state_size=4,
            call={"use_cache": False},
        ),
        ("transformers",),
    ),
    "whisper_tiny_encoder": Network("sound", whisper, ("transformers",), 1.8),
    "wav2vec2": Network(
        "sound", hub("Wav2Vec2Model", "Wav2Vec2Config", lambda: waves(2000), **SOUND), ("transformers",)
    ),
    "hubert": Network("sound", hub("HubertModel", "HubertConfig", lambda: waves(2000), **SOUND), ("transformers",)),
    "vit": picture("ViTModel", "ViTConfig", image_size=64, patch_size=8, **SMALL),
    "swin": picture(
        "SwinModel",
        "SwinConfig",
        image_size=64,
        patch_size=4,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "convnext": picture("ConvNextModel", "ConvNextConfig", hidden_sizes=[32, 64], depths=[2, 2], num_stages=2),
    "clip_vision": picture("CLIPVisionModel", "CLIPVisionConfig", image_size=64, patch_size=16, **SMALL),
    "segformer": picture(
        "SegformerModel",
        "SegformerConfig",
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[16, 32],
        num_attention_heads=[1, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
    ),
    "dinov2": picture(
        "Dinov2Model",
        "Dinov2Config",
        size=56,
        image_size=56,
        patch_size=14,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    "resnet_hub": picture("ResNetModel", "ResNetConfig", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1]),
}
