"""Instructions of the hot steps, and of whole requests through the gateway, counted by valgrind.

Started by bench/instructions. Counts do not depend on how busy the machine is, so that they can be a
gate: each may be at most TOLERANCE above the one in bench/instructions.json, which was counted on
x86-64 with AVX2. Only the gateway's worker thread is counted, and nothing of the kernel.

The backend pauses before it answers, so that the gateway has always come to rest. Without, it depends on the
scheduler whether the answer is there when the gateway looks for it first: 4,000 instructions of a request over TLS.
"""

import argparse
import json
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "instructions.json"
TOLERANCE = 1.03
STEP_TIMES = 2_000
#: Seconds that the backend takes for an answer.
PAUSE = 0.003
WARM, COUNTED = 60, 300
ANSWER = b"HTTP/1.1 200 OK\r\nserver: upstream\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n" + b"x" * 200


def run(*argv):
    done = subprocess.run([str(a) for a in argv], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(str(a) for a in argv)}:\n{done.stderr[-2000:]}")
    return done


def step_counts(target):
    """Instructions of each step; what it takes to set it up is not counted."""
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for step in run(target / "counted").stdout.split():
            out = Path(folder) / "callgrind"
            run("valgrind", "--tool=callgrind", "--toggle-collect=*counted*repeat*", f"--callgrind-out-file={out}", target / "counted", step, STEP_TIMES)
            counts[f"step {step}"] = round(collected(out) / STEP_TIMES)
    return counts


def collected(file):
    found = re.search(r"^(?:totals|summary): (\d+)", file.read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0


def upstream():
    """Answers every request with 200 bytes, on connections that stay open."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        waiting = b""
        while data := connection.recv(65536):
            waiting += data
            while b"\r\n\r\n" in waiting:
                head, _, waiting = waiting.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                waiting = waiting[int(length.group(1)) if length else 0:]
                time.sleep(PAUSE)
                connection.sendall(ANSWER)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_ready(admin):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


class Gateway:
    """The gateway under callgrind, one worker thread."""

    def __init__(self, target, folder):
        self.folder, self.plain, self.tls, admin = Path(folder), free_port(), free_port(), free_port()
        binary, home = target / "tollgate", self.folder / "home"
        run(binary, "init", home, "--host", "api.localhost", "--upstream", f"127.0.0.1:{upstream()}")
        policy = (home / "policy.yaml").read_text().replace("100/min", "1000000000/min")
        (home / "policy.yaml").write_text(policy)
        settings = home / "tollgate.yaml"
        settings.write_text(
            f'listen:\n  - {{ address: "127.0.0.1:{self.plain}", kind: trusted, terminated_by: the bench }}\n'
            f'  - {{ address: "127.0.0.1:{self.tls}", kind: tls }}\n'
            f"certificates: [{{ certificate: cert.pem, key: key.pem }}]\npolicy: [policy.yaml]\npepper_file: pepper\n"
            f'threads: 1\naccess_log: false\nbounds: {{ failures_per_minute: 0 }}\nadmin: "127.0.0.1:{admin}"\n'
        )
        config = ("--config", settings)
        run(binary, *config, "orgs", "create", "acme", "--permissions", "items:read,items:write")
        made = run(binary, "--json", *config, "keys", "create", "--org", "acme", "--name", "counted", "--class", "write", "--scopes", "items:read,items:write")
        self.key, self.trust = json.loads(made.stdout)["key"], home / "ca.pem"
        self.out = self.folder / "callgrind"
        argv = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", f"--callgrind-out-file={self.out}", binary, *config, "serve"]
        self.process = subprocess.Popen([str(a) for a in argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            # Not the first port that accepts: the listeners begin one after the other.
            if is_ready(admin):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise SystemExit("the gateway did not start under valgrind")

    def control(self, *what):
        run("callgrind_control", *what, self.process.pid)

    def count(self, ask):
        """Instructions of the busiest thread for one request."""
        for _ in range(WARM):
            ask()
        for old in self.folder.glob("callgrind*"):
            old.unlink()
        self.control("-z")
        for _ in range(COUNTED):
            ask()
        self.control("-d")
        return round(max(map(collected, self.folder.glob("callgrind*"))) / COUNTED)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Client:
    """One connection that asks one question again and again."""

    def __init__(self, gateway, credential, status, tls=False, method="GET", body=b"", headers=()):
        self.connection = socket.create_connection(("127.0.0.1", gateway.tls if tls else gateway.plain))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            context = ssl.create_default_context(cafile=gateway.trust)
            self.connection = context.wrap_socket(self.connection, server_hostname="api.localhost")
        length = (f"Content-Length: {len(body)}",) if body else ()
        lines = (f"{method} /items HTTP/1.1", "Host: api.localhost", f"Authorization: Bearer {credential}", *length, *headers)
        self.request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.expected = f"HTTP/1.1 {status} ".encode()

    def __call__(self):
        self.connection.sendall(self.request)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer) < self.length(answer):
            data = self.connection.recv(65536)
            if not data:
                raise SystemExit(f"the connection ended after {answer!r}")
            answer += data
        if not answer.startswith(self.expected):
            raise SystemExit(f"not {self.expected!r}: {answer!r}")

    @staticmethod
    def length(answer):
        head, _, _ = answer.partition(b"\r\n\r\n")
        return len(head) + 4 + int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE).group(1))


#: What SDKs and browsers send beside the credential.
USUAL = ("Accept: application/json", "Accept-Encoding: gzip, deflate, br", "User-Agent: an-sdk/1.4.0 (linux)", "Connection: keep-alive", "X-Request-Source: checkout")


def request_counts(target):
    """Instructions of whole requests, client side and backend side."""
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(target, folder)
        try:
            key = gateway.key
            jobs = {
                "request key": Client(gateway, key, 200),
                "request key, usual fields": Client(gateway, key, 200, headers=USUAL),
                "request key, TLS": Client(gateway, key, 200, tls=True),
                "request key, with a body": Client(gateway, key, 200, method="POST", body=b'{"a":1}'),
                "request 401": Client(gateway, key[:-1] + ("0" if key[-1] != "0" else "1"), 401),
            }
            gateway.control("-i", "on")
            return {name: gateway.count(ask) for name, ask in jobs.items()}
        finally:
            gateway.stop()


def main():
    parse = argparse.ArgumentParser(prog="bench/instructions", description=__doc__.splitlines()[0])
    parse.add_argument("--target", type=Path, required=True, help=argparse.SUPPRESS)
    parse.add_argument("--accept", action="store_true", help="take what was counted as the new baseline")
    options = parse.parse_args()
    counts = step_counts(options.target) | request_counts(options.target)
    before = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    worse = []
    for name, count in counts.items():
        was = before.get(name)
        change = f"{(count / was - 1) * 100:+6.1f} %" if was else "    new"
        print(f"{name:28} {count:8} {change}")
        if was is None or count > was * TOLERANCE:
            worse.append(name)
    if options.accept:
        BASELINE.write_text(json.dumps(counts, indent=2) + "\n")
    elif worse:
        raise SystemExit(f"more instructions than bench/instructions.json allows: {', '.join(worse)}. Mend it, or take the new counts with --accept and say why.")


main()
