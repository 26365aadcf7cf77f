"""What runs beside the load: the upstream, Redis, the peers, and how their CPU time is counted."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

TICKS = os.sysconf("SC_CLK_TCK")
PROXY_CORE, LOAD_CORE = (0, 1) if (os.cpu_count() or 1) > 1 else (0, 0)
NAMES = ("plain", "key", "jwt", "tlsplain", "tls", "redis_lim", "admin", "admin_redis")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ports(**shared):
    return SimpleNamespace(**{name: free_port() for name in NAMES}, **shared)


def pinned(core, argv, **more):
    if shutil.which("taskset"):
        argv = ["taskset", "-c", str(core), *map(str, argv)]
    return subprocess.Popen(argv, **more)


class Running:
    """A process and its children."""

    def __init__(self, argv, port, log, core=PROXY_CORE, env=None):
        self.log = Path(log)
        with open(log, "wb") as f:
            self.process = pinned(core, argv, stdout=f, stderr=f, env=env)
        for _ in range(1200):
            if self.process.poll() is not None:
                raise SystemExit(f"{argv[0]} ended:\n{self.log.read_text()[-2000:]}")
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise SystemExit(f"{argv[0]} does not listen on {port}:\n{self.log.read_text()[-2000:]}")

    def pids(self):
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting.extend(int(child) for child in task.read_text().split())
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def resident_mib(self):
        lines = (line for pid in self.pids() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def upstream(folder, data, port, jwks_port):
    """nginx that answers 200 bytes and says what it was sent; and the keys of a token issuer, over TLS."""
    body = json.dumps({"items": ["x" * 185]})
    temporary = "".join(f"{name}_temp_path {folder}/up_{name}; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (Path(folder) / "big").write_bytes(b"x" * (1 << 20))
    conf = Path(folder) / "upstream.conf"
    user = "user root root; " if os.geteuid() == 0 else ""
    lua = "".join(f"load_module {file};\n" for name in ("ndk_http", "ngx_http_lua") for file in Path("/usr/lib/nginx/modules").glob(f"{name}_module.so"))
    conf.write_text(f"""{lua}{user}worker_processes 1; daemon off; pid {folder}/upstream.pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; default_type application/json; {temporary}
    server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
        if ($http_see) {{ add_header Seen-Auth "[$http_authorization]"; add_header Seen-Key "[$http_x_key_id$http_x_tollgate_key_id$http_x_tollgate_user]"; }}
        if ($http_big) {{ rewrite ^ /big last; }}
        if ($request_method = POST) {{ rewrite ^ /read last; }}
        return 200 '{body}'; }}
        # Answers when it has read all of a body, as most backends do.
        location = /read {{ content_by_lua_block {{ ngx.req.read_body() ngx.header.content_length = 2 ngx.print("ok") }} }}
        location = /big {{ root {folder}; }} client_max_body_size 0; client_body_buffer_size 64k; }}
    server {{ listen 127.0.0.1:{jwks_port} ssl; ssl_certificate {data.cert}; ssl_certificate_key {data.tls_key};
        location = /jwks {{ alias {data.jwks}; }} }}
}}
""")
    return Running(["nginx", "-e", "stderr", "-c", conf], port, Path(folder) / "upstream.log", LOAD_CORE)


def redis(folder, port):
    argv = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    return Running(argv, port, Path(folder) / "redis.log", LOAD_CORE)
