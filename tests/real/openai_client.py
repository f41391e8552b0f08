"""Asks a server one question about a picture, whole and streamed; prints the answers as JSON."""

import base64
import json
import sys
from pathlib import Path

from openai import OpenAI

base_url, picture, question = sys.argv[1:4]
client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
url = "data:image/png;base64," + base64.b64encode(Path(picture).read_bytes()).decode()
content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
request = {
    "model": "base",
    "messages": [{"role": "user", "content": content}],
    "max_tokens": 24,
    "temperature": 0,
}
whole = client.chat.completions.create(**request).choices[0].message.content
chunks = client.chat.completions.create(**request, stream=True)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
print(json.dumps({"models": [model.id for model in client.models.list()], "whole": whole, "streamed": streamed}))
