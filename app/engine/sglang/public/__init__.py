"""The fallback engine: a model behind SGLang's public API only.

For a release of SGLang in which something has moved that `app/engine/sglang/` relies on, and for
ENGINE=sglang-public. It serves what `Engine.async_generate` can do: texts, conversations, tools,
thinking, log-probabilities, JSON schemas. It has no pictures, adapters, embeddings, beams or sleep,
its processes are SGLang's own as they are, and a token costs several times as much.

    event loop: PublicEngine ──> Bridge ──> engine thread, with a loop of its own: sglang.Engine
"""
