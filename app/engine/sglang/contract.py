"""What engine/sglang/ relies on in SGLang, statement by statement: `moved.py` runs each.

Written against 0.5.23. What fails here moved, and breaks what the comment above it names.
"""

# ruff: noqa: E402, F401, I001, PT017
from __future__ import annotations

import inspect
import json
import sys

import msgspec

from sglang.srt.entrypoints.engine import Engine
from sglang.srt.managers.io_struct import ShutdownReq
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.parser.conversation import generate_chat_conv
from sglang.srt.server_args import ServerArgs
from sglang.srt.entrypoints.openai.serving_chat import MessageProcessingResult, OpenAIServingChat
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.managers.io_struct import EmbeddingReqInput, GenerateReqInput
from sglang.srt.parser.reasoning_parser import ReasoningParser
from sglang.srt.sampling.sampling_params import SamplingParams

generate = set(GenerateReqInput.__dataclass_fields__)
assert {
    "input_ids",
    "sampling_params",
    "stream",
    "rid",
    "require_reasoning",
    "return_logprob",
    "top_logprobs_num",
    "logprob_start_len",
} <= generate
assert {"input_ids", "rid", "dimensions"} <= set(EmbeddingReqInput.__dataclass_fields__)
result = set(MessageProcessingResult.__dataclass_fields__)
assert {"prompt_ids", "stop", "require_reasoning"} <= result
assert list(inspect.signature(OpenAIServingChat._process_messages).parameters)[:3] == [
    "self",
    "request",
    "is_multimodal",
]
for name in (
    "parse_stream_chunk",
    "parse_stream_end",
    "parse_non_stream",
    "get_structure_constraint",
):
    assert callable(getattr(FunctionCallParser, name)), name
for name in ("parse_stream_chunk", "parse_stream_end"):
    assert callable(getattr(ReasoningParser, name)), name
params = inspect.signature(SamplingParams).parameters
assert {"json_schema", "regex", "ebnf", "structural_tag", "ebnf_full_assistant"} <= set(params)
source = inspect.getsource(TokenizerManager)
for name in (
    "_handle_batch_output",
    "_dispatch_to_scheduler",
    "auto_create_handle_loop",
    "generate_request",
    "get_loads",
    "flush_cache",
    "start_profile",
    "config_value",
    "freeze_gc",
):
    assert callable(getattr(TokenizerManager, name)), name
for name in (
    "self.event_loop = ",
    "self.last_receive_tstamp = ",
    "_subprocess_watchdog",
    "self.recv_from_detokenizer = ",
    "self.send_to_scheduler = ",
    "self.request_logger = ",
    "self.soft_watchdog = ",
    "self.sampling_params_class",
    "self.tokenizer_ipc_name = ",
    "self.preferred_sampling_params = ",
    "self.disaggregation_mode = ",
    "self.enable_trace = ",
    "self.enable_priority_scheduling = ",
    "self.default_priority_value = ",
    "self._result_dispatcher = ",
    "self.rid_to_state",
):
    assert name in source, name
from sglang.srt.managers.tokenizer_manager import stamp_http_worker_ipc

assert {"stream_interval", "is_normalized"} <= set(inspect.signature(SamplingParams).parameters)
loop = inspect.getsource(TokenizerManager.auto_create_handle_loop)
assert "if self.event_loop is not None:\n            return" in loop
engine = inspect.getsource(Engine.__init__)
for name in ("self.template_manager", "self._scheduler_init_result", "self.tokenizer_manager"):
    assert name in engine, name
assert 'getenv("SGLANG_BLOCK_NONZERO_RANK_CHILDREN") == "0"' in inspect.getsource(
    Engine._launch_subprocesses
)
from sglang.srt.environ import envs
from sglang.srt.managers.multi_tokenizer_mixin import MultiTokenizerRouter

assert list(inspect.signature(Engine.attach_tokenizer_worker).parameters) == ["parent_pid"]
assert "multi_tokenizer_args_{parent_pid}" in inspect.getsource(Engine.attach_tokenizer_worker)
for name in (
    "self.tokenizer_router = ",
    "self._multi_tokenizer_shm = ",
    "self.tokenizer_manager._subprocess_watchdog = ",
):
    assert name in engine, name
from sglang.srt.managers import data_parallel_controller, load_snapshot, multi_tokenizer_mixin

assert "PortArgs.init_new(server_args)" in inspect.getsource(Engine._launch_subprocesses)
assert "shm_path_for(port_args.instance_id)" in inspect.getsource(
    load_snapshot.create_load_snapshot_writer
)
assert "write_to_shared_memory(args, f" in inspect.getsource(
    multi_tokenizer_mixin.write_data_for_multi_tokenizer
)
assert {"dp_rank", "timestamp", "total_prefill_uncached_tokens"} <= set(
    load_snapshot.LoadSnapshot.__struct_fields__
)
assert callable(load_snapshot.ShmLoadSnapshotReader.read_all)
assert not hasattr(load_snapshot.ShmLoadSnapshotReader, "poll")
assert callable(load_snapshot.ZmqShmLoadSnapshotReader.poll)
assert "self.load_snapshot_reader = " in source
controller = inspect.getsource(data_parallel_controller)
assert "add_fallback_fn(self.send_control_message)" in controller  # so ShutdownReq reaches all
assert 'setproctitle("sglang::data_parallel_controller")' in controller
assert 'getattr(self, "_multi_tokenizer_shm", None)' in inspect.getsource(Engine.shutdown)
for name in ("self._task = ", "self._handle_task = "):
    assert name in inspect.getsource(MultiTokenizerRouter), name
# If its loop fails, print_exception_wrapper stops here, before it kills the process tree.
assert not hasattr(MultiTokenizerRouter, "dump_requests_before_crash")
assert envs.SGLANG_BATCH_TOKENIZER_OUTPUTS.get()  # outputs go out grouped by process
from sglang.srt.managers import detokenizer_manager
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components import output_streamer

streamer = inspect.getsource(output_streamer.SchedulerOutputStreamer)
assert "self.rust_server.push_generation(payload, acc.decode_latencies)" in streamer
assert streamer.count("self.rust_server") == 4  # whether it is there, and the call
assert "rust_server" in output_streamer.SchedulerOutputStreamer.__slots__
made = inspect.getsource(Scheduler.init_output_streamer)
assert "self.get_output_streamer_class()(" in made
filled = inspect.getsource(output_streamer._GenerationStreamAccumulator.accept)
both = filled[: filled.index("if not self.rust_server_mode:")]
for name in (
    "rids",
    "finished_reasons",
    "output_ids",
    "prompt_tokens",
    "reasoning_tokens",
    "cached_tokens",
    "beam_search_output",
):
    assert f"self.{name}.append(" in both, name
for name in ("spec_verify_ct", "output_token_logprobs_val", "input_token_logprobs_val"):
    assert f"self.{name}.append(" in filled.replace(both, ""), name
assert list(inspect.signature(Engine._launch_detokenizer_subprocesses).parameters) == [
    "server_args",
    "port_args",
    "run_detokenizer_process_func",
]
assert "detoken_procs, detoken_names = cls._launch_detokenizer_subprocesses(" in inspect.getsource(
    Engine._launch_subprocesses
)
from sglang.srt.managers.scheduler_components import ipc_channels

assert "zmq.PUSH, port_args.detokenizer_ipc_name, False" in inspect.getsource(ipc_channels)
assert list(
    inspect.signature(detokenizer_manager.DetokenizerManager.trim_matched_stop).parameters
) == ["self", "output", "finished_reason", "no_stop_trim"]
to_detokenizer = inspect.getsource(Scheduler)
assert to_detokenizer.count("send_to_detokenizer.send_output(") == 2  # the two that Exchange drops
from sglang.srt.constrained import base_grammar_backend

assert "self.executor = ThreadPoolExecutor()" in inspect.getsource(base_grammar_backend)
from sglang.srt.entrypoints import engine as engine_module

assert 'mp.set_start_method("spawn", force=True)' in inspect.getsource(engine_module)
from sglang.srt.models.registry import _ModelRegistry

assert "model_cls = self.models.get(first_arch)" in inspect.getsource(
    _ModelRegistry.resolve_model_cls
)
from sglang.srt.lora import lora, lora_config, lora_manager, mem_pool, utils as lora_utils
from sglang.srt.managers import io_struct, scheduler

manager = lora_manager.LoRAManager
assert list(inspect.signature(manager.load_lora_adapter).parameters) == ["self", "lora_ref"]
assert {"max_lora_rank", "target_modules", "lora_paths"} <= set(
    inspect.signature(manager.init_state).parameters
)
assert callable(lora_utils.auto_detect_lora_target_modules)
pool = inspect.getsource(mem_pool.LoRAMemoryPool)
for name in (
    "A_buffer",
    "B_buffer",
    "embedding_A_buffer",
    "embedding_B_buffer",
    "lm_head_A_buffer",
    "lm_head_B_buffer",
    "new_embeddings_buffer",
    "pin_memory_available",
    "strict_loading",
):
    assert f"self.{name}" in pool, name
assert list(inspect.signature(mem_pool.LoRAMemoryPool.load_lora_weight_to_buffer).parameters) == [
    "self",
    "uid",
    "buffer_id",
    "lora_adapter",
    "lora_modules",
    "lora_embed_tokens_module",
    "lora_lm_head_module",
]
installed = inspect.getsource(manager.load_lora_weights) + inspect.getsource(
    manager._load_lora_adapter
)
for line in (
    "self.configs[lora_ref.lora_id] = ",
    "self.loras[lora_ref.lora_id] = ",
    "self.lora_refs[lora_ref.lora_id] = ",
):
    assert line in installed, line
steps = inspect.getsource(scheduler.Scheduler)
assert steps.index("self.init_model_worker()") < steps.index("self.init_request_dispatcher()")
assert "(UnloadLoRAAdapterReqInput, self.unload_lora_adapter)" in steps
for name in ("collect_inflight_reqs", "unload_lora_adapter"):
    assert callable(getattr(scheduler.Scheduler, name)), name
for name in ("self.waiting_queue", "self.chunked_req", "self.result_queue"):
    assert name in steps, name
assert '("update_lora_adapter", LoRAUpdateOutput)' in inspect.getsource(
    sys.modules["sglang.srt.managers.tokenizer_control_mixin"]
)
assert {"lora_name", "lora_path", "lora_id"} <= set(
    io_struct.LoadLoRAAdapterReqInput.__struct_fields__
)
from sglang.srt.beam_search import coordinator
from sglang.srt.lora import lora_drainer
from sglang.srt.managers.scheduler_components import output_streamer

assert list(inspect.signature(lora_drainer.LoRADrainer).parameters) == [
    "max_loras_per_batch",
    "max_wait_time_secs",
]
assert "self.lora_drainer = LoRADrainer(" in steps
assert list(inspect.signature(manager.validate_lora_batch).parameters) == ["self", "lora_ids"]
beams = coordinator.BeamCoordinator
assert list(inspect.signature(beams.select_leader_prefill).parameters) == [
    "self",
    "req",
    "pos",
    "logits_output",
    "tick",
]
begun = inspect.getsource(beams.select_leader_prefill)
assert "group.next_step_is_final()" in begun
assert "self._stash_next_tokens([req.kv.req_pool_idx]" in begun
assert "alloc_rows(group.beam_width - 1)" in inspect.getsource(beams._spawn_member_rows)
assert "if req.to_finish is not None:" in inspect.getsource(beams.commit_prefill)
assert "is_beam_leader and req.finished()" in inspect.getsource(output_streamer)
from sglang.srt.managers import schedule_batch

assert "KV cache pool is full" in inspect.getsource(schedule_batch)
assert "lora_id" in io_struct.TokenizedGenerateReqInput.__struct_fields__
assert "self.scaling: float = self.config.lora_alpha / self.config.r" in inspect.getsource(
    lora.LoRAAdapter
)
from sglang.srt.constrained import grammar_manager, reasoner_grammar_backend

reasoner = reasoner_grammar_backend.ReasonerGrammarObject
for name in ("enable_token_filter", "token_filter_fn", "tokens_after_end"):
    assert f"self.{name} = " in inspect.getsource(reasoner.__init__), name
assert "._thinking_match_history.pop()" in inspect.getsource(reasoner.rollback_state)
assert "self.transfer_state(token)" in inspect.getsource(reasoner.accept_token)
backend = reasoner_grammar_backend.ReasonerGrammarBackend
assert "self._make_grammar_object(" in inspect.getsource(backend._init_value_dispatch)
assert 'custom_params.get("thinking_budget")' in inspect.getsource(grammar_manager)
assert "req.grammar.max_think_tokens = " in inspect.getsource(grammar_manager)
counting = schedule_batch.Req.update_reasoning_tokens
assert list(inspect.signature(counting).parameters) == ["self", "token_id", "think_end_ids"]
assert "self._is_reasoning_over = True" in inspect.getsource(counting)
from sglang.srt.parser import reasoning_parser

assert "tool_start_at_line_start=True" not in inspect.getsource(reasoning_parser)
from sglang.srt.managers.data_parallel_controller import DataParallelController
from sglang.srt.managers.scheduler import run_scheduler_process

rendezvous = sys.modules["torch.distributed.rendezvous"]
assert Engine.run_scheduler_process_func is run_scheduler_process
assert "=self.run_scheduler_process_func" in engine
assert "=self.run_scheduler_process_func" in inspect.getsource(DataParallelController)
assert "return TCPStore(" in inspect.getsource(rendezvous._create_c10d_store)
assert "_create_c10d_store(" in inspect.getsource(rendezvous._tcp_rendezvous_handler)
from sglang.srt.managers.load_snapshot import ShmLoadSnapshotWriter
from sglang.srt.utils import configure_logger

assert "os.ftruncate(self.fd, size)" in inspect.getsource(ShmLoadSnapshotWriter)
assert "logging.config.dictConfig(custom_config)" in inspect.getsource(configure_logger)

# Pictures (app/engine/sglang/pictures.py).
import torch
from sglang.srt.managers import mm_utils, multimodal_processor
from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
from sglang.srt.managers.schedule_batch import (
    Modality,
    MultimodalDataItem,
    MultimodalProcessorOutput,
)
from sglang.srt.multimodal.processors import qwen_vl, transformers_auto
from sglang.srt.multimodal.processors.base_processor import (
    BaseMultimodalProcessor,
    MultimodalSpecialTokens,
)

assert list(inspect.signature(multimodal_processor.get_mm_processor).parameters)[:5] == [
    "hf_config",
    "server_args",
    "processor",
    "transport_mode",
    "model_config",
]
assert callable(mm_utils.determine_tensor_transport_mode)
assert {"input_ids", "padded_input_ids", "mm_items", "im_token_id", "im_start_id", "im_end_id"} <= {
    *MultimodalProcessorOutput.__struct_fields__
}
item = {*MultimodalDataItem.__struct_fields__}
assert {"offsets", "feature", "precomputed_embeddings", "model_specific_data"} <= item
assert "mm_inputs" in TokenizedGenerateReqInput.__struct_fields__
see = inspect.signature(BaseMultimodalProcessor.process_mm_data_async).parameters
assert {"image_data", "audio_data", "input_text", "request_obj"} <= {*see}
for name in ("resolve_image_token_counts", "mm_tokens"):
    assert name in inspect.getsource(BaseMultimodalProcessor), name
assert {"image_token", "image_token_regex", "video_token", "audio_token"} <= {
    *MultimodalSpecialTokens.__dataclass_fields__
}
assert callable(transformers_auto.TransformersAutoMultimodalProcessor)
assert "_cached_image_prompt_template" in inspect.getsource(qwen_vl)
assert "self.mm_processor = " in source
assert {"enable_multimodal", "mm_feature_transport", "mm_processor_worker_num", "model_impl"} <= {
    field.name for field in msgspec.structs.fields(ServerArgs)
}
# Its segments are named so; it sweeps none of those that its scheduler has not taken.
assert mm_utils.make_shm_name("mm").startswith(f"sgl_shm_mm_{__import__('os').getpid()}_")
assert "os.posix_fallocate(" in inspect.getsource(mm_utils.ShmPointerMMData)
assert "except" in inspect.getsource(mm_utils._wrap_shm_or_inline)  # a full /dev/shm: inline
assert callable(mm_utils._discard_tensor_or_list)
# Its own identities are of the bytes alone: pictures of swapped sides are one to it. Once they
# differ, ours can go.
wide, tall = (
    MultimodalDataItem(modality=Modality.IMAGE, feature=torch.zeros(shape))
    for shape in ((8, 4), (4, 8))
)
for each in (wide, tall):
    each.set_pad_value()
assert wide.hash == tall.hash
wide.set_identity(bytes(32))
assert wide.hash != tall.hash

# Why /generate refuses `session_params` (app/dialects/sglang/unsupported.py): a client that
# replaces a session's requests would end the scheduler. Once this no longer raises, look again.
from types import SimpleNamespace
from sglang.srt.session.session_controller import Session, SessionReqNode

session = Session(10, "s")
request = SimpleNamespace(rid="a", finished_reason="stop", origin_input_ids=[1], output_ids=[2])
session.req_nodes["a"] = SessionReqNode(request)
replaces = SimpleNamespace(id="s", rid=None, replace=True, offset=None, drop_previous_output=False)
try:
    session.create_req(SimpleNamespace(session_params=replaces, input_ids=[1]), None, 10)
except RuntimeError as error:
    assert "changed size during iteration" in str(error)
else:
    raise AssertionError("sessions may be replaced now")
fields = {field.name for field in msgspec.structs.fields(ServerArgs)}
wanted = set(json.loads(sys.argv[1]))
assert wanted <= fields, wanted - fields
