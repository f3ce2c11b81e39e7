"""A small ComfyUI without a websocket, that a test can make fail."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

SIZE = ["INT", {"default": 8, "min": 1, "max": 64}]
BRANCHES = [
    {"key": "by factor", "inputs": {"required": {"factor": ["FLOAT", {"min": 0.5, "max": 4.0}]}}},
    {"key": "to size", "inputs": {"required": {"width": SIZE}}},
]
TYPES = {
    "Load": {"input": {"required": {"image": [["there.png"], {"image_upload": True}]}}, "display_name": "Load Image"},
    "Scale": {
        "input": {
            "required": {
                "image": ["IMAGE"], "width": SIZE, "sharp": ["FLOAT", {"min": -1.0, "max": 1.0}],
                "how": [["nearest", "area"], {}], "mode": ["COMBO", {"options": ["a", "b"]}],
                "resize": ["COMFY_DYNAMICCOMBO_V3", {"options": BRANCHES}],
            },
            "optional": {
                "any": ["INT,FLOAT"], "free": ["MODEL"], "crop": ["BOOLEAN", {}], "note": ["STRING", {}],
                "seed": ["INT", {}], "noise_seed": ["INT", {}], "frames": ["INT", {"control_after_generate": True}],
            },
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True, "display_name": "Save Image"},
}  # fmt: skip
GRAPH = {
    "1": {"class_type": "Load", "inputs": {"image": "there.png"}},
    "2": {
        "class_type": "Scale",
        "inputs": {
            "image": ["1", 0],
            "width": 8,
            "sharp": 0.5,
            "resize": "by factor",
            "resize.factor": 2.0,
            "seed": 1,
            "noise_seed": 3,
            "frames": 12,
            "any": 1,
            "odd": False,
        },
        "_meta": {"title": "Half v1.5"},
    },
    "7:3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
}
PICTURE = b"\x89PNG and the rest"


class Fake(ThreadingHTTPServer):
    """Answers as ComfyUI does; a test changes the attributes below to make it fail."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.uploaded, self.prompt = [], {}, None
        self.refuse = None  # the body of an HTTP 400 for /prompt
        self.outputs = {
            "7:3": {"images": [{"filename": "a.png", "subfolder": "x", "type": "output"}], "animated": [False]}
        }
        self.status = {"status_str": "success", "completed": True, "messages": []}
        self.pending, self.running, self.rounds = [], False, 1  # looks at /queue before the job is over
        self.lost, self.stopping = False, 0
        self.files = {"a.png": PICTURE}

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        fake, url = self.server, urlsplit(self.path)
        fake.asked.append(url.path)
        job = fake.prompt and fake.prompt["prompt_id"]
        if url.path == "/system_stats":
            self.reply({"system": {}, "devices": []})
        elif url.path.startswith("/object_info/"):
            kind = url.path.rpartition("/")[2]
            self.reply({kind: TYPES[kind]} if kind in TYPES else {})
        elif url.path == "/node_replacements":
            self.reply({"Old": []})
        elif url.path == "/queue":
            fake.rounds -= 1
            mine = [] if fake.lost else [[9, job]]
            waiting = bool(fake.pending)
            entry = {
                "queue_running": [[1, "x"]] if waiting else mine,
                "queue_pending": fake.pending + mine if waiting else [],
            }
            fake.pending = fake.pending[1:]
            self.reply(entry)
        elif url.path == f"/history/{job}":
            over = fake.rounds <= 0 and not fake.lost
            self.reply({job: {"outputs": fake.outputs, "status": fake.status}} if over else {})
        elif url.path == "/view":
            name = parse_qs(url.query)["filename"][0]
            self.reply(fake.files[name]) if name in fake.files else self.reply({}, 404)
        else:
            self.reply({}, 404)

    def do_POST(self):
        fake, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        fake.asked.append(self.path)
        if self.path == "/upload/image":
            head, content = body.split(b"\r\n\r\n", 1)
            border = body.split(b"\r\n", 1)[0]
            assert self.headers["Content-Type"].encode().endswith(b"boundary=" + border[2:])
            name = head.decode().split('filename="')[1].split('"')[0]
            fake.uploaded[name] = content.removesuffix(b"\r\n" + border + b"--\r\n")
            self.reply({"name": f"server {name}", "subfolder": "", "type": "input"})
        elif self.path == "/prompt":
            fake.prompt = json.loads(body)
            self.reply(
                fake.refuse or {"prompt_id": fake.prompt["prompt_id"], "node_errors": {}}, 400 if fake.refuse else 200
            )
        else:  # /queue and /interrupt
            fake.asked.append(json.loads(body))
            fake.stopping += self.path == "/interrupt"
            fake.lost |= fake.stopping > 1  # the first interrupt comes too early, as it may
            self.reply(b"")

    def reply(self, content, code=200):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
