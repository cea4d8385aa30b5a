"""Chat endpoints on this machine that speak the protocol of OpenAI-compatible servers."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class ChatEndpoint:
    """A server that records what it is asked and replies with what `answer` gives."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append(body)
                endpoint.keys.append(self.headers.get("Authorization", ""))
                status, payload = endpoint.answer(self.path, body)
                data = json.dumps(payload).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client did not wait

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON value for one request."""
        raise NotImplementedError


def completion(body: dict[str, Any], content: str, prompt_tokens: int = 100, completion_tokens: int = 7) -> dict:
    """The reply to a request whose model says `content`."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


class ListedAnswers(ChatEndpoint):
    """Gives the listed answers: text is a completion, an int a status, a float a delay in seconds before `late`."""

    def __init__(self, late: str = "{}") -> None:
        super().__init__()
        self.answers: list[Any] = []
        self.late = late

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The next one of the list; what is neither text nor a number is sent as it is."""
        answer = self.answers.pop(0)
        if isinstance(answer, float):
            time.sleep(answer)
            answer = self.late
        if isinstance(answer, int):
            return answer, {"error": {"message": "told to fail"}}
        return 200, completion(body, answer) if isinstance(answer, str) else answer
