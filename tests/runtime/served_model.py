"""`transformers serve` with a tiny Qwen3-VL of random weights, as a process on this machine."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

START_LIMIT_S = 280.0
# As Qwen3-VL's own, as far as a picture and texts need it.
TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
            "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
            "{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}"
            "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def write_served(folder: Path) -> Path:
    """A folder with all that the server needs beside the weights."""
    from qwen_fixtures import MERGE, PATCH, image_processor, qwen_tokenizer, write_qwen
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor
    write_qwen(folder, tied=False, words=True)
    Qwen3VLProcessor(image_processor(), qwen_tokenizer(), Qwen3VLVideoProcessor(patch_size=PATCH, merge_size=MERGE),
                     chat_template=TEMPLATE).save_pretrained(folder)
    return folder


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """The server's address, once it answers. Raises RuntimeError with its log where it does not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    cache = folder.parent / "hub"
    cache.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder),
               "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT,
                                   env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"})
    try:
        end = time.monotonic() + START_LIMIT_S
        while True:
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200:
                    break
            except httpx2.TransportError:
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"transformers serve does not answer:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
