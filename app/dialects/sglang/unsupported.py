"""Fields of SGLang's `/generate` that are refused, and those that change no answer.

docs/api.md has the same table, with the fields that work; tests/dialects/sglang/test_native.py
holds the two together, and both to the fields of the installed SGLang.

Source: GenerateReqInput (sglang/srt/managers/io_struct.py) and SamplingParams
(sglang/srt/sampling/sampling_params.py) of SGLang 0.5.23.
"""

from __future__ import annotations

from app.dialects.body import Unsupported

IGNORED = {
    "rid": "the engine's ids are this server's own: SGLang aborts by prefix of an id",
    "session_id": "a name for routers",
    "routing_key": "a name for routers",
    "conversation_id": "a name for routers",
    "log_metrics": "each request is counted",
    "custom_labels": "each request is counted under the labels of all",
}
"""They change no answer."""

_CODE = "code of a client's would run in the engine"
_DISAGGREGATED = "prefill and decoding are not split over servers"
_INTERNAL = "SGLang's own, between its processes"
_INNER = "what is inside the model is not given out"
_FORMS = "`top_logprobs_num` gives the same in the usual form"
_MEDIA = "films and sounds are not taken"
_PICTURES = "the model's own processor prepares pictures, as its files say"
_PLAIN = "a plain prompt has no thinking that is known as such"
_RESPONSES = "`/v1/responses` has it"
_SCORING = "for scoring and reranking models, which are not served"

REASONS: dict[str, Unsupported] = {
    "vectors can make a model's numbers overflow, and one of another size ends the engine; "
    "SGLang takes them without its prefix cache only": {
        "input_embeds": (),
        "positional_embed_overrides": (),
    },
    "SGLang keeps a session in the engine without a bound, any client that knows its id can use "
    "it, and a `replace` without `rid` ends the engine (0.5.23); a repeated prompt is in the "
    "prefix cache": {
        "session_params": (),
    },
    _CODE: {"custom_logit_processor": ()},
    "`lora_path` has an adapter's name": {"lora_id": ()},
    _MEDIA: {
        "video_data": ([],),
        "audio_data": ([],),
        "modalities": ([],),
        "video_config": (),
        "use_audio_in_video": (False,),
        "video_max_dynamic_patch": (),
    },
    _PICTURES: {
        "max_dynamic_patch": (),
        "min_dynamic_patch": (),
        "image_max_dynamic_patch": (),
        "images_config": (),
        "mm_processor_kwargs": (),
    },
    "a picture is known by its own content: by a hash of the client's it could pass for another "
    "client's": {"mm_hashes": (), "mm_content_hashes": ()},
    "`top_logprobs_num` gives the most likely ones": {"token_ids_logprob": ([],)},
    _FORMS: {
        "return_flat_raw_top_logprobs": (False,),
        "return_flat_raw_output_top_logprobs": (False,),
        "return_flat_raw_top_logprobs_b64": (False,),
    },
    "log-probabilities are the model's own, before sampling": {
        "return_sampling_mask": (False,),
        "sampling_logprobs_mode": (),
        "return_entropy": (False,),
    },
    _INNER: {
        "return_hidden_states": (False,),
        "return_routed_experts": (False,),
        "routed_experts_start_len": (0,),
        "return_indexer_topk": (False,),
    },
    "`/tokenize` gives the prompt's ids": {"return_prompt_token_ids": (False,)},
    _PLAIN: {"require_reasoning": (False,), "max_thinking_tokens": ()},
    "requests are served in the order in which they come": {"priority": ()},
    "`cache_salt` separates caches": {"extra_key": ()},
    "the engine chooses the replica": {"routed_dp_rank": (0,), "data_parallel_rank": (0,)},
    _RESPONSES: {"background": (False,)},
    "the content of requests is in the log at `LOG_LEVEL=debug` only": {"no_logs": (False,)},
    "answers carry no watermark": {"watermark": ()},
    _SCORING: {"multi_item_delimiter_indices": (), "token_indices_to_pool": ()},
    _DISAGGREGATED: {
        "bootstrap_host": (),
        "bootstrap_port": (),
        "bootstrap_room": (),
        "bootstrap_pair_key": (),
        "decode_tp_size": (),
        "disagg_prefill_dp_rank": (),
        "kv_hints": (),
        "need_wait_for_mm_inputs": (False,),
        "num_items_assigned": (),
        "encoder_urls": (),
    },
    _INTERNAL: {
        "http_worker_ipc": (),
        "return_bytes": (False,),
        "external_trace_header": (),
        "received_time": (),
    },
}
"""Why fields of the body are refused -> their names, with the values that have no effect."""

SAMPLING_REASONS: dict[str, Unsupported] = {
    "completions, chats and jobs have `use_beam_search`": {"beam_width": (1,)},
    "a pattern can take the engine's time without an end": {"stop_regex": ([],)},
    "code of a client's, which does not run here, would read them": {"custom_params": ()},
    "the tokenizers of today have no such switch": {"spaces_between_special_tokens": (True,)},
    "this server sends a frame for each step, and fewer under load (`MAX_STREAM_INTERVAL`)": {
        "stream_interval": (),
    },
    "answers carry no watermark": {"watermark": ()},
}
"""The same of `sampling_params`."""

INTERNAL_SAMPLING = frozenset({
    "stop_strs", "stop_regex_strs", "stop_str_max_len", "stop_regex_max_len", "is_normalized",
    "ebnf_full_assistant",
})  # fmt: skip
"""SGLang makes them of the others. Refused like every name that is not known."""

FIELDS: Unsupported = {name: v for group in REASONS.values() for name, v in group.items()}
SAMPLING: Unsupported = {
    name: v for group in SAMPLING_REASONS.values() for name, v in group.items()
}


def because(reasons: dict[str, Unsupported]) -> dict[str, str]:
    """Field -> why it is refused."""
    return {name: why for why, group in reasons.items() for name in group}
