"""What the configurations of all peers share: the routes, the answers, and how files are written."""

import os
import resource
from pathlib import Path

ROUTES = (            # method, path, scope, bit
    ("GET", "/v1/items", "items:read", 1),
    ("POST", "/v1/items", "items:write", 2),
    ("GET", "/v1/orders", "orders:read", 4),
)
BITS = {s: b for _m, _p, s, b in ROUTES}
J401 = '{"error":"unauthorized"}'
J403 = '{"error":"insufficient_scope"}'
J404 = '{"error":"not_found"}'
J429 = '{"error":"rate_limited"}'
J503 = '{"error":"limiter_unavailable"}'
# The client's order decides at every peer, as BoringSSL (envoy) has no setting for TLS 1.3.
SUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
H2_STREAMS = 128


def key_id(i):
    return "k%d" % i


def mask(scopes):
    return sum(BITS[s] for s in set(scopes) if s in BITS)


def files():
    """Open files the peer may have: the hard limit, 65536 at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)


def make(folder):
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(path, text, mode=0o644):
    path = Path(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w") as f:
        f.write(text)
    return path
