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
    "tlsnew": ("key, a handshake for each request; most resume", "tls"),
    "down": ("answers of 1 MiB, no checks", "plain"),
    "downtls": ("answers of 1 MiB, no checks, TLS 1.3", "tlsplain"),
    "up": ("bodies of 1 MiB, no checks", "plain"),
    "uptls": ("bodies of 1 MiB, no checks, TLS 1.3", "tlsplain"),
    "handshake": ("full handshakes, none resumed", "tls"),
    "half": ("key, at half of what the slowest can do", "key"),
}

#: What a real client says beside its host and its credential.
USUAL = {
    "Accept": "application/json", "Accept-Encoding": "gzip, deflate, br", "Accept-Language": "en-GB,en;q=0.9",
    "User-Agent": "an-sdk/1.4.0 (linux; x86_64) node/20.20.2", "Cache-Control": "no-cache", "X-Request-Source": "checkout",
    "X-Sdk-Version": "1.4.0", "Traceparent": "00-11112222333344445555666677778888-1111222233334444-01",
}

SCRIPT = """
local requests, at = {}, 0
local usual = { USUAL_LINES }
function init()
  for line in io.lines(os.getenv("BENCH_CREDENTIALS")) do
    local fields = { Host = "api.localhost", Authorization = "Bearer " .. line, Connection = os.getenv("BENCH_CONNECTION") }
    for name, value in pairs(usual) do fields[name] = value end
    requests[#requests + 1] = wrk.format("GET", nil, fields)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"""


UPLOAD = """
wrk.method = "POST"
wrk.body = string.rep("x", 1048576)
"""
#: Connections of jobs whose messages are large.
LARGE_CONNECTIONS = 8


class Load:
    """The load generators, with what they send."""

    def __init__(self, folder, data, seconds):
        self.seconds = seconds
        self.script = Path(folder) / "load.lua"
        lines = ", ".join(f'["{name}"] = "{value}"' for name, value in USUAL.items())
        self.script.write_text(SCRIPT.replace("USUAL_LINES", lines))
        self.upload = Path(folder) / "upload.lua"
        self.upload.write_text(UPLOAD)
        self.folder, self.rate = Path(folder), None
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
        if job == "handshake":
            return self.handshakes(port)
        if job == "half":
            return self.at_a_rate(port)
        credentials = {"jwt": "tokens", "r401": "unknown", "r429": "limited"}.get(job, "keys")
        is_large = job.startswith(("down", "up"))
        path = "/plain" if job.endswith("plain") or is_large else "/v1/items"
        scheme = "https" if job.startswith("tls") or job.endswith("tls") else "http"
        connections = 1 if job == "key1" else LARGE_CONNECTIONS if is_large else CONNECTIONS
        env = dict(os.environ, BENCH_CREDENTIALS=str(self.files[credentials]))
        env.pop("BENCH_CONNECTION", None)
        if job == "tlsnew":
            env["BENCH_CONNECTION"] = "close"
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", "--latency"]
        if path == "/plain":
            fields = {"Host": "api.localhost", **USUAL}
            fields |= {"Big": "1"} if job.startswith("down") else {}
            argv += [part for name, value in fields.items() for part in ("-H", f"{name}: {value}")]
            argv += ["-s", self.upload] if job.startswith("up") else []
        else:
            argv += ["-s", self.script]
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
        argv += [part for name, value in USUAL.items() for part in ("-H", f"{name.lower()}: {value}")]
        argv = [*argv, "-H", f"authorization: Bearer {self.key}", f"https://127.0.0.1:{port}/v1/items"]
        argv[argv.index("host: api.localhost")] = ":authority: api.localhost"
        out = pinned(LOAD_CORE, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).communicate()[0]
        good = int(re.search(r"(\d+) 2xx", out).group(1))
        bad = sum(int(n) for n in re.search(r"2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out).groups())
        if bad or not good or "protocol: h2" not in out:
            raise SystemExit(f"h2: not all were answered with 200\n{out}")
        mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", out)
        return good, float(mean.group(1)) * UNITS[mean.group(2)], None

    def handshakes(self, port):
        """Full handshakes from four clients that remember nothing."""
        argv = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-time", str(self.seconds)]
        clients = [pinned(LOAD_CORE, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(4)]
        outs = [client.communicate()[0] for client in clients]
        made = sum(int(re.search(r"(\d+) connections in \d+ real seconds", out).group(1)) for out in outs)
        return made, None, None

    def at_a_rate(self, port):
        """So many requests a second and no more, however long an answer takes."""
        log = self.folder / "half.log"
        log.unlink(missing_ok=True)
        rate = max(1, round(self.rate / CONNECTIONS))
        argv = ["h2load", "--h1", "-t1", f"-c{CONNECTIONS}", "-n", str(rate * CONNECTIONS * self.seconds), f"--rps={rate}", f"--log-file={log}"]
        argv += [part for name, value in USUAL.items() for part in ("-H", f"{name}: {value}")]
        argv += ["-H", ":authority: api.localhost", "-H", f"Authorization: Bearer {self.key}", f"http://127.0.0.1:{port}/v1/items"]
        pinned(LOAD_CORE, argv, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT).communicate()
        rows = [line.split("\t") for line in log.read_text().splitlines()]
        if any(row[1] != "200" for row in rows):
            raise SystemExit(f"half: not all were answered with 200: {[row for row in rows if row[1] != '200'][:3]}")
        times = sorted(int(row[2]) for row in rows)
        return len(times), times[len(times) // 2], times[len(times) * 99 // 100]

    def measure(self, job, peer):
        """One measurement, as a row."""
        before = peer.running(job).cpu_seconds()
        requests, p50, p99 = self.run(job, peer.ports[JOBS[job][1]])
        cpu = peer.running(job).cpu_seconds() - before
        return {
            "job": job, "peer": peer.name, "requests": requests, "cpu_us": cpu / requests * 1e6, "per_s": requests / self.seconds,
            "p50_us": p50, "p99_us": p99, "resident_mib": round(peer.running(job).resident_mib(), 1),
        }
