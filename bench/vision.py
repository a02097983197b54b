"""Tiny vision-language models with random weights, made here: nothing is downloaded.

    python -m bench.vision [FAMILY]      makes it, if it is not there, and prints its folder

They answer nonsense, but see: another picture gives other probabilities, and each has as many
tokens as its family gives it. So pictures can be served and tested without a GPU. Weights are drawn
larger than usual; by the usual ones a picture is hardly seen. 1 MB and a few seconds each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.engine import demo

RECIPE = 1
"""Part of the folder's name: raise it when a model changes."""
_VOCABULARY = 2048
_CONTEXT = 2048
_END, _BEGIN, _TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_DEVIATION = 0.08
_TEXT = {
    "vocab_size": _VOCABULARY, "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": _CONTEXT, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
           "num_attention_heads": 2}  # fmt: skip
Made = tuple[Any, Any]
"""A model and its processor."""


def _template(picture: str, film: str) -> str:
    """A turn is its role's line and its parts in their order."""
    return (
        "{%- for turn in messages %}" + _BEGIN + "{{ turn.role }}\n"
        "{%- if turn.content is string %}{{ turn.content }}"
        "{%- else %}{%- for part in turn.content %}"
        "{%- if part.type == 'image' %}" + picture + ""
        "{%- elif part.type == 'video' %}" + film + ""
        "{%- elif part.type == 'text' %}{{ part.text }}{%- endif %}"
        "{%- endfor %}{%- endif %}" + _TURN_END + "\n"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}" + _BEGIN + "assistant\n{%- endif %}"
    )


def _tokenizer(markers: list[str], picture: str, film: str = "", **named: Any) -> Any:
    """Byte-level, trained on texts that are on every machine; `markers` come first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_END, _BEGIN, _TURN_END, *markers],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library = sorted(map(str, Path(os.__file__).parent.glob("*.py")))
    pieces.train(library[:60], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token=_END, eos_token=_TURN_END, pad_token=_END,
        model_max_length=_CONTEXT, **named,
    )  # fmt: skip
    made.chat_template = _template(picture, film or picture)
    return made


def _ids(tokenizer: Any, **names: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


# -- the families ----------------------------------------------------------------------------------


def _qwens_tokenizer() -> tuple[Any, dict[str, int]]:
    begin, end = "<|vision_start|>", "<|vision_end|>"
    picture, film = "<|image_pad|>", "<|video_pad|>"
    made = _tokenizer(
        [begin, end, "<|vision_pad|>", picture, film], begin + picture + end, begin + film + end
    )
    return made, _ids(
        made, image_token_id=picture, video_token_id=film, vision_start_token_id=begin,
        vision_end_token_id=end,
    )  # fmt: skip


def _qwen2_5_vl() -> Made:
    import transformers as tf

    tokenizer, named = _qwens_tokenizer()
    config = tf.Qwen2_5_VLConfig(
        text_config={
            **_TEXT, "rope_theta": 10_000.0, "tie_word_embeddings": False,
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6]},
        },
        vision_config={
            "depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128,
            "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False, **named,
    )  # fmt: skip
    side = 28
    options = {
        "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * side * side, "longest_edge": 64 * side * side},
    }  # fmt: skip
    processor = tf.Qwen2_5_VLProcessor(
        tf.Qwen2VLImageProcessor(**options), tokenizer, tf.Qwen2VLVideoProcessor(**options),
        chat_template=tokenizer.chat_template,
    )  # fmt: skip
    return tf.Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl() -> Made:
    import transformers as tf

    tokenizer, named = _qwens_tokenizer()
    config = tf.Qwen3VLConfig(
        text_config={
            **_TEXT, "head_dim": 32, "rope_theta": 10_000.0, "tie_word_embeddings": False,
            "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5],
                             "mrope_interleaved": True},
        },
        vision_config={
            "depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128,
            "out_hidden_size": 128, "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=False, **named,
    )  # fmt: skip
    side = 32
    options = {
        "patch_size": 16, "merge_size": 2, "temporal_patch_size": 2,
        "size": {"shortest_edge": 4 * side * side, "longest_edge": 64 * side * side},
    }  # fmt: skip
    processor = tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(**options), tokenizer, tf.Qwen3VLVideoProcessor(**options),
        chat_template=tokenizer.chat_template,
    )  # fmt: skip
    return tf.Qwen3VLForConditionalGeneration(config), processor


def _gemma3() -> Made:
    import transformers as tf

    markers = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
               "image_token": "<image_soft_token>"}  # fmt: skip
    tokenizer = _tokenizer([*markers.values()], markers["boi_token"], extra_special_tokens=markers)
    config = tf.Gemma3Config(
        text_config={
            **_TEXT, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={**_VISION, "image_size": 56, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        **_ids(
            tokenizer, boi_token_index=markers["boi_token"], eoi_token_index=markers["eoi_token"],
            image_token_index=markers["image_token"],
        ),
    )  # fmt: skip
    processor = tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size={"height": 56, "width": 56}, do_pan_and_scan=False),
        tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4,
    )  # fmt: skip
    return tf.Gemma3ForConditionalGeneration(config), processor


def _pixtral() -> Made:
    import transformers as tf

    tokenizer = _tokenizer(["[IMG]", "[IMG_BREAK]", "[IMG_END]"], "[IMG]")
    config = tf.LlavaConfig(
        text_config={**_TEXT, "model_type": "llama", "tie_word_embeddings": False},
        vision_config={
            **_VISION, "model_type": "pixtral", "head_dim": 32, "image_size": 112,
            "patch_size": 14, "rope_theta": 10_000.0,
        },
        vision_feature_layer=-1, vision_feature_select_strategy="full",
        **_ids(tokenizer, image_token_index="[IMG]"),  # noqa: S106
    )  # fmt: skip
    pictures = tf.PixtralImageProcessor(
        size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
    )
    processor = tf.PixtralProcessor(
        pictures, tokenizer, patch_size=14, chat_template=tokenizer.chat_template
    )
    return tf.LlavaForConditionalGeneration(config), processor


def _idefics3() -> Made:
    """Which SGLang serves by its Transformers backend."""
    import transformers as tf

    rows = [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    markers = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
    tokenizer = _tokenizer([*markers, *rows], "<image>")
    config = tf.Idefics3Config(
        text_config={
            **_TEXT, "model_type": "llama", "pad_token_id": 0, "tie_word_embeddings": False,
        },
        vision_config={**_VISION, "image_size": 64, "patch_size": 16},
        scale_factor=2, pad_token_id=0, tie_word_embeddings=False,
        **_ids(tokenizer, image_token_id="<image>"),  # noqa: S106
    )  # fmt: skip
    pictures = tf.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 64}, do_image_splitting=False
    )
    processor = tf.Idefics3Processor(
        pictures, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template
    )
    return tf.Idefics3ForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], Made]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "pixtral": _pixtral,
    "idefics3": _idefics3,
}


def find(family: str = "qwen2_5_vl") -> Path:
    """Return the model's folder, made if it does not exist."""
    cache = demo.default_cache()
    folder = cache / f"tiny-{family}-{RECIPE}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="tiny-", dir=cache))
        try:
            make(family, fresh)
            fresh.chmod(0o755)
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def make(family: str, folder: Path) -> None:
    """Write the model's files; the same ones each time."""
    import torch

    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, _DEVIATION)
    model.to(torch.bfloat16).save_pretrained(folder)
    if family == "gemma3":
        _rename_as_published(folder / "model.safetensors")
    processor.save_pretrained(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(ends))


def _rename_as_published(file: Path) -> None:
    """Transformers 5 writes the tower's weights without the name that checkpoints have for them."""
    from safetensors.torch import load_file, save_file

    weights = {
        name.replace("vision_tower.", "vision_tower.vision_model."): weight
        for name, weight in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("family", nargs="?", default="qwen2_5_vl", choices=[*FAMILIES])
    print(find(parser.parse_args().family))


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    main()
