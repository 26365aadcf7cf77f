"""nginx alone, and nginx with Lua."""

import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path

from common import H2_STREAMS, J401, J403, J404, J429, J503, ROUTES, SUITES, files, key_id, make, mask, write

GATE = Path(__file__).with_name("gate.lua")


def _nginx_frame(folder, data, ports, modules, http, servers):
    user = "user root root;\n" if os.geteuid() == 0 else ""
    tmp = "\n".join("    %s_temp_path %s/tmp_%s;" % (n, folder, n)
                    for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""{modules}{user}worker_processes 1;
worker_rlimit_nofile {files()};
daemon off;
pid {folder}/nginx.pid;
error_log stderr crit;
pcre_jit on;
events {{
    worker_connections {min(16384, files() - 64)};
    multi_accept on;
}}
http {{
{tmp}
    access_log off;
    log_not_found off;
    server_tokens off;
    default_type application/json;
    tcp_nodelay on;
    keepalive_timeout 3600s;
    keepalive_time 24h;
    keepalive_requests 1000000000;
    http2_max_concurrent_streams {H2_STREAMS};
    client_max_body_size 0;

    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites {SUITES};
    ssl_prefer_server_ciphers off;
    ssl_session_cache shared:tls:10m;
    ssl_certificate {data.cert};
    ssl_certificate_key {data.tls_key};

    upstream app {{
        server 127.0.0.1:{ports.upstream} max_fails=0;
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_time 24h;
        keepalive_timeout 3600s;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;

{http}
{servers}
}}
"""


_PASS = """
        proxy_pass http://app;"""

# proxy_set_header in a location replaces those of the http level
_PASS_KEY = """
        proxy_set_header Connection "";
        proxy_set_header Authorization "";
        proxy_set_header X-Key-Id $key_id;
        proxy_pass http://app;"""


def _listen(port, tls):
    return f"listen 127.0.0.1:{port}{' ssl http2' if tls else ''} backlog=4096;"


def _nginx_plain(port, tls):
    return f"""    server {{
        {_listen(port, tls)}
        location / {{{_PASS.replace(chr(10), chr(10) + '    ')}
        }}
    }}
"""


def nginx(folder, ports, data):
    """Stock nginx: map for the key, its scopes and its limit; limit_req for the rate.

    limit_req has its rate in the zone, so there is one zone per distinct limit;
    a request is counted only in the zone whose key variable is not empty.
    """
    folder = make(folder)
    n = len(data.keys)
    rows = [(key_id(i), k, mask(s), lim) for i, (k, s, lim) in enumerate(data.keys)]
    hash_size = 1 << max(12, (8 * n).bit_length())

    out = ["    map_hash_max_size %d;" % hash_size, "    map_hash_bucket_size 256;",
           "    variables_hash_max_size 4096;"]

    def table(source, name, default, pairs):
        out.append("    map %s $%s {" % (source, name))
        out.append('        default "%s";' % default)
        out.extend('        "%s" "%s";' % p for p in pairs)
        out.append("    }")

    # one look-up of the long string, the others go by the short id
    table("$http_authorization", "key_id", "", (("Bearer " + k, kid) for kid, k, _m, _l in rows))
    # a map's look-up ignores case: the exact text is compared afterwards
    table("$key_id", "key_exact", "-", ((kid, "Bearer " + k) for kid, k, _m, _l in rows))
    limits = Counter(r[3] for r in rows)
    usual_limit = limits.most_common(1)[0][0]
    table("$key_id", "key_limit", usual_limit,
          ((kid, lim) for kid, _k, _m, lim in rows if lim != usual_limit))
    table("$key_limit", "key_retry", 60,
          ((lim, max(1, math.ceil(60 / lim))) for lim in sorted(limits)))
    usual_mask = Counter(r[2] for r in rows).most_common(1)[0][0]
    for method, _path, scope, bit in ROUTES:
        name = "may_" + scope.replace(":", "_")
        table("$key_id", name, 1 if usual_mask & bit else 0,
              ((kid, 1 if m & bit else 0) for kid, _k, m, _l in rows if m != usual_mask))
    paths = sorted({p for _m, p, _s, _b in ROUTES})
    for path in paths:
        table("$request_method", "allow" + path.replace("/", "_"), "none",
              ((m, "$may_" + s.replace(":", "_")) for m, p, s, _b in ROUTES if p == path))
    lines = []
    for lim in sorted(limits):
        table("$key_limit", "zone_key_%d" % lim, "", [(lim, "$key_id")])
        size = max(1, math.ceil(limits[lim] * 160 / 1048576))
        out.append("    limit_req_zone $zone_key_%d zone=lim%d:%dm rate=%dr/m;"
                   % (lim, lim, size, lim))
        # burst counts those above the first one: `lim` at once, then lim per minute
        lines.append("            limit_req zone=lim%d%s nodelay;"
                     % (lim, " burst=%d" % (lim - 1) if lim > 1 else ""))
    out.append("    limit_req_status 429;")
    out.append("    limit_req_log_level info;")

    def server(port, tls):
        text = "    server {\n        " + _listen(port, tls) + "\n"
        text += f"""        error_page 429 @limited;
        location @limited {{
            add_header Retry-After $key_retry always;
            add_header X-RateLimit-Limit $key_limit always;
            return 429 '{J429}';
        }}
        location / {{
            return 404 '{J404}';
        }}
"""
        for path in paths:
            var = "$allow" + path.replace("/", "_")
            text += f"""        location = {path} {{
            if ({var} = none) {{
                return 404 '{J404}';
            }}
            if ($http_authorization != $key_exact) {{
                add_header WWW-Authenticate Bearer always;
                return 401 '{J401}';
            }}
            if ({var} = 0) {{
                return 403 '{J403}';
            }}
{chr(10).join(lines)}
            add_header X-RateLimit-Limit $key_limit;{_PASS_KEY.replace(chr(10), chr(10) + '    ')}
        }}
"""
        return text + "    }\n"

    servers = (_nginx_plain(ports.plain, False) + _nginx_plain(ports.tlsplain, True)
               + server(ports.key, False) + server(ports.tls, True))
    conf = write(folder / "nginx.conf",
                  _nginx_frame(folder, data, ports, "", "\n".join(out), servers), 0o600)
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(folder),
            "-e", "stderr", "-c", str(conf)]


def nginx_lua(folder, ports, data):
    """nginx + lua-nginx-module: Lua table of keys, shared-dict (or Redis) counters, FFI libcrypto."""
    folder = make(folder)
    write(folder / "keys.tsv",
           "".join("%s\t%s\t%d\t%d\n" % (k, key_id(i), mask(s), lim)
                   for i, (k, s, lim) in enumerate(data.keys)), 0o600)
    paths = sorted({p for _m, p, _s, _b in ROUTES})
    handlers = []
    for path in paths:
        name = path.strip("/").replace("/", "_")
        for kind, call in (("key", "check_key(%d, incr_shared)"), ("redis", "check_key(%d, redis_incr)"),
                           ("jwt", "check_jwt(' %s ')")):
            handlers.append("function M.%s_%s()\n    local method = get_method()" % (kind, name))
            for method, p, scope, bit in ROUTES:
                if p == path:
                    handlers.append("    if method == '%s' then return %s end"
                                    % (method, call % (scope if kind == "jwt" else bit)))
            handlers.append("    return not_found()\nend\n")
    text = GATE.read_text()
    for mark, value in (("FOLDER", str(folder)), ("REDIS", str(getattr(ports, "redis", 0) or 0)),
                        ("ISSUER", json.dumps(data.issuer)), ("AUDIENCE", json.dumps(data.audience)),
                        ("PEM", json.dumps(str(data.jwt_public_pem))), ("J401", J401), ("J403", J403),
                        ("J404", J404), ("J429", J429), ("J503", J503),
                        ("HANDLERS", "\n".join(handlers))):
        text = text.replace("@%s@" % mark, value)
    write(folder / "gate.lua", text)

    def server(port, tls, kind):
        text = f"""    server {{
        {_listen(port, tls)}
        location / {{
            return 404 '{J404}';
        }}
"""
        for path in paths:
            name = path.strip("/").replace("/", "_")
            text += f"""        location = {path} {{
            set $key_id "";
            access_by_lua_block {{ return gate.{kind}_{name}() }}{_PASS_KEY.replace(chr(10), chr(10) + '    ')}
        }}
"""
        return text + "    }\n"

    modules = ""
    for name in ("ndk_http_module.so", "ngx_http_lua_module.so"):
        found = [d + "/" + name for d in ("/usr/lib/nginx/modules", "/usr/share/nginx/modules")
                 if os.path.exists(d + "/" + name)]
        if found:
            modules += "load_module %s;\n" % found[0]
    http = f"""    lua_package_path "{folder}/?.lua;;";
    lua_shared_dict counters 32m;
    lua_socket_log_errors off;
    init_by_lua_block {{
        gate = require "gate"
        gate.init()
    }}
"""
    servers = (_nginx_plain(ports.plain, False) + _nginx_plain(ports.tlsplain, True)
               + server(ports.key, False, "key") + server(ports.tls, True, "key")
               + server(ports.jwt, False, "jwt"))
    if getattr(ports, "redis_lim", None):
        servers += server(ports.redis_lim, False, "redis")
    conf = write(folder / "nginx.conf", _nginx_frame(folder, data, ports, modules, http, servers))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(folder),
            "-e", "stderr", "-c", str(conf)]
