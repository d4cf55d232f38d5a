import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request.get("type", "request") == "request":
        print(json.dumps({"id": request["id"], "ok": request["body"]}), flush=True)
