"""The chat server: an OpenAI-compatible HTTP interface to a ``Duet``. It needs FastAPI (``serve``)."""
