"""An LLM server: FastAPI on uvicorn in front, the SGLang engine inside the same process."""

__version__ = "0.2.0"
