"""The jobs, and one measurement of one: requests, CPU of the proxy, latency."""

import os
import re
import subprocess
from pathlib import Path

from world import LOAD_CORE, pinned

CONNECTIONS = 64
UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}

#: Job: what it is, the listener it goes to, and the peers' capability it needs.
JOBS = {
    "plain": ("no checks", "plain"),
    "key": ("key, scope, limit, fields", "key"),
    "key1": ("the same on one connection", "key"),
    "r401": ("an unknown key refused", "key"),
    "r429": ("a key over its limit refused", "key"),
    "jwt": ("token RS256, scope; 256 tokens", "jwt"),
    "redis": ("key, the counter in Redis", "redis"),
    "tlsplain": ("no checks, TLS 1.3", "tlsplain"),
    "tls": ("key, TLS 1.3", "tls"),
    "h2": ("key, TLS 1.3, HTTP/2", "tls"),
    "tlsnew": ("key, a full handshake for each request", "tls"),
}

SCRIPT = """
local requests, at = {}, 0
function init()
  for line in io.lines(os.getenv("BENCH_CREDENTIALS")) do
    requests[#requests + 1] = wrk.format("GET", nil, { Host = "api.localhost", Authorization = "Bearer " .. line, Connection = os.getenv("BENCH_CONNECTION") })
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"""


class Load:
    """The load generators, with what they send."""

    def __init__(self, folder, data, seconds):
        self.seconds = seconds
        self.script = Path(folder) / "load.lua"
        self.script.write_text(SCRIPT)
        key = data.keys[0][0]
        self.key = key
        lists = {
            "keys": [k for n, (k, _, _) in enumerate(data.keys) if n not in (1, 2)],
            "tokens": data.tokens,
            "unknown": [key[:-1] + ("0" if key[-1] != "0" else "1")],
            "limited": [data.keys[2][0]],
        }
        self.files = {name: Path(folder) / f"{name}.txt" for name in lists}
        for name, lines in lists.items():
            self.files[name].write_text("\n".join(lines) + "\n")

    def run(self, job, port):
        """(requests, µs at p50, µs at p99) of one run."""
        if job == "h2":
            return self.h2load(port)
        credentials = {"jwt": "tokens", "r401": "unknown", "r429": "limited"}.get(job, "keys")
        path = "/plain" if job.endswith("plain") else "/v1/items"
        scheme = "https" if job.startswith("tls") else "http"
        connections = 1 if job == "key1" else CONNECTIONS
        env = dict(os.environ, BENCH_CREDENTIALS=str(self.files[credentials]))
        env.pop("BENCH_CONNECTION", None)
        if job == "tlsnew":
            env["BENCH_CONNECTION"] = "close"
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", "--latency"]
        argv += ["-H", "Host: api.localhost"] if path == "/plain" else ["-s", self.script]
        out = pinned(LOAD_CORE, [*argv, f"{scheme}://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True, env=env).communicate()[0]
        requests = int(re.search(r"(\d+) requests in", out).group(1))
        refused = int((re.search(r"Non-2xx or 3xx responses: (\d+)", out) or [0, 0])[1])
        expected = requests if job in ("r401", "r429") else 0
        if abs(refused - expected) > 8 or re.search(r"Socket errors:.*(connect|timeout) [1-9]", out):
            raise SystemExit(f"{job}: {refused} of {requests} refused, not {expected}\n{out}")

        def micros(percentile):
            number, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", out).groups()
            return float(number) * UNITS[unit]

        return requests, micros(50), micros(99)

    def h2load(self, port):
        argv = ["h2load", "-t1", "-c8", "-m8", f"-D{self.seconds}", "--warm-up-time=0", "-H", "host: api.localhost"]
        argv = [*argv, "-H", f"authorization: Bearer {self.key}", f"https://127.0.0.1:{port}/v1/items"]
        argv[argv.index("host: api.localhost")] = ":authority: api.localhost"
        out = pinned(LOAD_CORE, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).communicate()[0]
        good = int(re.search(r"(\d+) 2xx", out).group(1))
        bad = sum(int(n) for n in re.search(r"2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out).groups())
        if bad or not good or "protocol: h2" not in out:
            raise SystemExit(f"h2: not all were answered with 200\n{out}")
        mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", out)
        return good, float(mean.group(1)) * UNITS[mean.group(2)], None

    def measure(self, job, peer):
        """One measurement, as a row."""
        before = peer.running(job).cpu_seconds()
        requests, p50, p99 = self.run(job, peer.ports[JOBS[job][1]])
        cpu = peer.running(job).cpu_seconds() - before
        return {
            "job": job, "peer": peer.name, "requests": requests, "cpu_us": cpu / requests * 1e6, "per_s": requests / self.seconds,
            "p50_us": p50, "p99_us": p99, "resident_mib": round(peer.running(job).resident_mib(), 1),
        }
