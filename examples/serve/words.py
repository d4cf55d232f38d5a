"""Counts words: the worker protocol in JSON lines, by hand."""
import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    if request.get("type", "request") == "request":
        words = len(request["body"]["text"].split())
        print(json.dumps({"id": request["id"], "ok": {"words": words}}), flush=True)
