# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two models without weights, for vLLM's --load-format dummy: a Qwen3 of 8B, and a tiny Qwen3-VL that takes pictures.

What they say has no meaning; what they take of a GPU and of time is real.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY = 512
CONTEXT = 8192
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if 'image' in part.type %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "dtype": "bfloat16",
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
TINY_QWEN3_VL: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
    **{f"{name}_token_id": TOKENS.index(f"<|{name}_pad|>") for name in ("image", "video")},
    **{f"vision_{name}_token_id": TOKENS.index(f"<|vision_{name}|>") for name in ("start", "end")},
    "text_config": {
        "model_type": "qwen3_vl_text",
        "dtype": "bfloat16",
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 256,
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True},
        "rope_theta": 5000000,
        "vocab_size": VOCABULARY,
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "deepstack_visual_indexes": [0, 1, 2],
        "depth": 4,
        "hidden_size": 128,
        "in_channels": 3,
        "intermediate_size": 256,
        "num_heads": 2,
        "num_position_embeddings": 2304,
        "out_hidden_size": 128,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}
PICTURES: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "merge_size": 2,
    "patch_size": 16,
    "processor_class": "Qwen3VLProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"longest_edge": 262144, "shortest_edge": 4096},
    "temporal_patch_size": 2,
}
STILLS = {**PICTURES, "image_processor_type": "Qwen2VLImageProcessorFast"}
FILMS = {
    **PICTURES,
    "video_processor_type": "Qwen3VLVideoProcessor",
    "fps": 2,
    "min_frames": 4,
    "max_frames": 16,
    "do_sample_frames": True,
}


def write(folder: Path) -> None:
    """Write both, below the folder."""
    _write_model(folder / "qwen3-8b", QWEN3_8B)
    _write_model(folder / "tiny-qwen3-vl", TINY_QWEN3_VL)
    _write_json(folder / "tiny-qwen3-vl" / "preprocessor_config.json", STILLS)
    _write_json(folder / "tiny-qwen3-vl" / "video_preprocessor_config.json", FILMS)


def _write_model(folder: Path, configuration: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", configuration)
    _write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [2], "pad_token_id": 0})
    _write_json(folder / "tokenizer.json", json.loads(_tokenizer().to_str()))
    words = {
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TOKENS[2],
        "extra_special_tokens": {},
        "model_max_length": CONTEXT,
        "pad_token": TOKENS[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(number): {"content": token, "special": True, "normalized": False} for number, token in enumerate(TOKENS)
        },
        "additional_special_tokens": list(TOKENS[3:]),
    }
    _write_json(folder / "tokenizer_config.json", words)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["describe this picture user assistant system the quick brown fox"], trainer)
    return tokenizer


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
