"""Fields of SGLang's `/generate` that are refused or ignored.

Source: GenerateReqInput (sglang/srt/managers/io_struct.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from app.dialects.body import Unsupported

IGNORED = ("rid", "session_id", "routing_key", "conversation_id", "log_metrics", "custom_labels")
"""They change no answer. A `rid` never reaches the engine, which aborts by prefix of an id."""

UNSUPPORTED: Unsupported = {
    **dict.fromkeys(
        (
            "use_audio_in_video",
            "return_sampling_mask",
            "return_flat_raw_top_logprobs",
            "return_flat_raw_output_top_logprobs",
            "return_flat_raw_top_logprobs_b64",
            "return_hidden_states",
            "return_routed_experts",
            "return_indexer_topk",
            "background",
            "require_reasoning",
            "no_logs",
            "return_bytes",
            "return_entropy",
            "return_prompt_token_ids",
            "need_wait_for_mm_inputs",
        ),
        (False,),
    ),
    **dict.fromkeys(
        (
            "input_embeds",
            "mm_hashes",
            "mm_content_hashes",
            "video_config",
            "watermark",
            "sampling_logprobs_mode",
            "session_params",
            "lora_id",
            "custom_logit_processor",
            "positional_embed_overrides",
            "bootstrap_host",
            "bootstrap_port",
            "bootstrap_room",
            "bootstrap_pair_key",
            "decode_tp_size",
            "disagg_prefill_dp_rank",
            "http_worker_ipc",
            "max_thinking_tokens",
            "priority",
            "extra_key",
            "external_trace_header",
            "received_time",
            "num_items_assigned",
            "encoder_urls",
            "max_dynamic_patch",
            "min_dynamic_patch",
            "image_max_dynamic_patch",
            "video_max_dynamic_patch",
            "images_config",
            "mm_processor_kwargs",
            "multi_item_delimiter_indices",
            "token_indices_to_pool",
            "cache_salt",
            "kv_hints",
        ),
        (),
    ),
    "video_data": ([],),
    "audio_data": ([],),
    "modalities": ([],),
    "token_ids_logprob": ([],),
    "routed_experts_start_len": (0,),
    "routed_dp_rank": (0,),
    "data_parallel_rank": (0,),
}
