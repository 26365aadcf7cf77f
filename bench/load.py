"""Runs Tollgate and a bare proxy side by side under the same load and prints CPU per request.

Started by bench/load. One worker thread each; proxy and load on different cores where there are
two; the figure is utime + stime of the proxy's process over the requests that wrk counted; ratios
are of the same round, and the median of them is quoted.
"""

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TARGET, ROUNDS, SECONDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 64


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port):
    for _ in range(400):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nobody listens on {port}")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def pinned(core, command, **more):
    if os.cpu_count() > 1 and shutil.which("taskset"):
        command = ["taskset", "-c", str(core)] + command
    return subprocess.Popen(command, **more)


class World:
    def __init__(self, folder):
        self.folder, self.processes = folder, []
        self.upstream, self.bare, self.gate, self.tls = (free_port() for _ in range(4))

    def start(self, core, command, port):
        quiet = open(os.path.join(self.folder, "log"), "a")
        process = pinned(core, command, stdout=quiet, stderr=quiet)
        self.processes.append(process)
        wait_port(port)
        return process.pid

    def nginx(self):
        body = json.dumps({"items": ["x" * 180]})
        conf = os.path.join(self.folder, "nginx.conf")
        with open(conf, "w") as f:
            f.write(
                f"daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log {self.folder}/nginx.log;\n"
                "events { worker_connections 1024; }\n"
                f"http {{ access_log off; keepalive_requests 100000000; server {{ listen 127.0.0.1:{self.upstream};\n"
                f"location / {{ default_type application/json; return 200 '{body}'; }} }} }}\n"
            )
        self.start(1, ["nginx", "-c", conf], self.upstream)

    def tollgate(self):
        run = lambda *a: subprocess.run([f"{TARGET}/tollgate", *a], check=True, capture_output=True, text=True).stdout
        at = os.path.join(self.folder, "gate")
        run("init", at, "--host", "api.localhost", "--upstream", f"127.0.0.1:{self.upstream}")
        with open(f"{at}/policy.yaml") as f:
            policy = f.read().replace("100/min", "1000000000/min")
        with open(f"{at}/policy.yaml", "w") as f:
            f.write(policy)
        with open(f"{at}/tollgate.yaml", "w") as f:
            f.write(
                f'listen:\n  - {{ address: "127.0.0.1:{self.gate}", kind: trusted, terminated_by: the bench }}\n'
                f'  - {{ address: "127.0.0.1:{self.tls}", kind: tls }}\n'
                "certificates: [{ certificate: cert.pem, key: key.pem }]\n"
                f"policy: [policy.yaml]\npepper_file: pepper\nthreads: 1\naccess_log: false\n"
                f'admin: "127.0.0.1:{free_port()}"\n'
            )
        config = ["--config", f"{at}/tollgate.yaml"]
        run(*config, "orgs", "create", "acme", "--permissions", "items:read")
        made = json.loads(run("--json", *config, "keys", "create", "--org", "acme", "--name", "load", "--class", "read", "--scopes", "items:read"))
        return self.start(0, [f"{TARGET}/tollgate", *config, "serve"], self.gate), made["key"]

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGINT)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def load(port, key):
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-H", "Host: api.localhost", "-H", f"Authorization: Bearer {key}", f"http://127.0.0.1:{port}/items"]
    out = pinned(1, command, stdout=subprocess.PIPE, text=True).communicate()[0]
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(out)
    return int(re.search(r"(\d+) requests in", out).group(1))


def measure(pid, port, key):
    before = cpu_seconds(pid)
    requests = load(port, key)
    return (cpu_seconds(pid) - before) / requests * 1e6, requests / SECONDS


def main():
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder)
        try:
            world.nginx()
            bare = world.start(0, [f"{TARGET}/bare-proxy", str(world.bare), f"127.0.0.1:{world.upstream}", "1"], world.bare)
            gate, key = world.tollgate()
            time.sleep(1)
            runs = {"bare": [], "checks": []}
            for _ in range(ROUNDS):
                runs["bare"].append(measure(bare, world.bare, key))
                runs["checks"].append(measure(gate, world.gate, key))
        finally:
            world.stop()
    cost = {name: [r[0] for r in rounds] for name, rounds in runs.items()}
    ratios = [c / b for b, c in zip(cost["bare"], cost["checks"])]
    for name, rounds in runs.items():
        print(f"{name:7} {statistics.median(cost[name]):6.1f} us CPU/request (best {min(cost[name]):.1f}), {statistics.median(r[1] for r in rounds):.0f} requests/s")
    print(f"checks over bare: median of {ROUNDS} same-round ratios {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


main()
