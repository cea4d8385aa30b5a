"""Vision-language models behind an OpenAI-compatible chat endpoint.

`models.vlm.client.ChatClient` is the one client: captions and judges both use it for retries, validated JSON answers,
the cache and token accounts. Prompts belong to those who ask, not here.
"""
