"""Tollgate, with keys and counters in process and in Redis."""

from common import ROUTES, write
from data import ALL

HOST = "api.localhost"


def policy(data, up, routes):
    own = "".join(
        f"      - {{ id: r{n}, methods: [{method}], paths: [{path}], access: {{ scopes: [\"{scope}\"] }} }}\n"
        for n, (method, path, scope, _) in enumerate(ROUTES)
    )
    others = "".join(
        f"      - {{ id: x{n}, methods: [GET], paths: [\"/v2/area{n % 100}/things/*/parts{n}\"], access: {{ scopes: [\"items:read\"] }} }}\n"
        for n in range(routes)
    )
    scopes = "".join(f"      {scope}: A scope of the bench\n" for scope in ALL)
    return f"""version: 1
apis:
  - name: peers
    hosts: [{HOST}]
    keys: {{ live: tk_live_ }}
    issuers: [{{ issuer: "{data.issuer}", jwks: "{data.issuer}/jwks", audience: {data.audience}, scopes: ["items:read", "items:write"] }}]
    upstreams: {{ live: {{ addresses: ["127.0.0.1:{up}"] }} }}
    scopes:
{scopes}    plans: {{ standard: {{ per_key: 1000000000/min }} }}
    limit_headers: x
    routes:
      - {{ id: plain, methods: [GET, POST], paths: ["/plain"], access: public }}
{own}{others}"""


def settings(listen, admin, store, more="", own="threads: 1\naccess_log: false\n"):
    lines = "".join(f'  - {{ address: "127.0.0.1:{port}", kind: {kind} }}\n' for port, kind in listen)
    return f"""listen:
{lines}certificates: [{{ certificate: cert.pem, key: key.pem }}]
policy: [policy.yaml]
store: "{store}"
pepper_file: pepper
issuer_ca: ca.pem
{own}bounds: {{ connections_per_address: 60000, failures_per_minute: 0 }}
admin: "127.0.0.1:{admin}"
{more}"""


def tollgate(target, ports, data):
    listen = [(ports.key, "trusted, terminated_by: the bench"), (ports.tls, "tls")]
    write(data.home / "bench.yaml", settings(listen, ports.admin, "sqlite://tollgate.db"))
    return [target / "tollgate", "--config", data.home / "bench.yaml", "serve"]


def as_shipped(target, ports, data):
    """The same with the settings that nobody has changed: the access log is on."""
    listen = [(ports.key, "trusted, terminated_by: the bench"), (ports.tls, "tls")]
    write(data.home / "shipped.yaml", settings(listen, ports.admin, "sqlite://tollgate.db", "state: state-shipped\n", own=""))
    return [target / "tollgate", "--config", data.home / "shipped.yaml", "serve"]


def tollgate_redis(target, ports, data):
    """The same, with keys and counters in Redis."""
    listen = [(ports.redis_lim, "trusted, terminated_by: the bench")]
    store = f"redis://127.0.0.1:{ports.redis}"
    more = "state: state-redis\n"
    write(data.home / "redis.yaml", settings(listen, ports.admin_redis, store, more))
    return [target / "tollgate", "--config", data.home / "redis.yaml", "serve"]
