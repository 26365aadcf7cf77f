"""HAProxy."""

import shutil
from pathlib import Path

from common import H2_STREAMS, J401, J403, J404, J429, ROUTES, SUITES, files, make, mask, write


def haproxy(folder, ports, data):
    """HAProxy: one map look-up gives id, limit and scopes; stick table for the rate."""
    folder = make(folder)
    write(folder / "keys.map",
           "".join("%s %d|%d|%d\n" % (k, i, lim, mask(s))
                   for i, (k, s, lim) in enumerate(data.keys)), 0o600)
    pem = write(folder / "tls.pem", Path(data.cert).read_text() + Path(data.tls_key).read_text(), 0o600)
    size = max(1024, 2 * len(data.keys))

    def reply(status, body, *headers):
        return ("http-request return status %d content-type application/json string '%s'%s"
                % (status, body, "".join(" hdr %s %s" % h for h in headers)))

    paths = sorted({p for _m, p, _s, _b in ROUTES})
    route = ["acl at_%s path %s" % (p.strip("/").replace("/", "_"), p) for p in paths]
    route += ["http-request set-var(txn.need) int(%d) if { method %s } at_%s"
              % (b, m, p.strip("/").replace("/", "_")) for m, p, _s, b in ROUTES]
    route += [reply(404, J404) + " unless { var(txn.need) -m found }"]

    keyjob = route + [
        "http-request set-var(txn.rec) http_auth_bearer,map_str(%s/keys.map)" % folder,
        reply(401, J401, ("WWW-Authenticate", "Bearer")) + " unless { var(txn.rec) -m found }",
        reply(403, J403) + " if { var(txn.rec),field(3,|),and(txn.need) -m int 0 }",
        "http-request set-var(txn.limit) var(txn.rec),field(2,|),add(0)",
        "http-request track-sc0 var(txn.rec),field(1,|) table rates",
        "http-request set-var(txn.used) sc_http_req_rate(0)",
        "http-request set-var(txn.left) var(txn.limit),sub(txn.used)",
        reply(429, J429, ("Retry-After", "60"), ("X-RateLimit-Limit", "%[var(txn.limit)]"),
              ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "60"))
        + " if { var(txn.left) -m int lt 0 }",
        "http-request del-header authorization",
        "http-request set-header X-Key-Id k%[var(txn.rec),field(1,|)]",
        "http-response set-header X-RateLimit-Limit %[var(txn.limit)]",
        "http-response set-header X-RateLimit-Remaining %[var(txn.left)]",
        "http-response set-header X-RateLimit-Reset 60",
    ]
    bad = ("WWW-Authenticate", "'Bearer error=\"invalid_token\"'")
    jwtjob = route + [
        "http-request set-var(txn.bearer) http_auth_bearer",
        reply(401, J401, ("WWW-Authenticate", "Bearer")) + " unless { var(txn.bearer) -m found }",
        # the algorithm is pinned here and in jwt_verify, whatever the token says
        reply(401, J401, bad) + " unless { var(txn.bearer),jwt_header_query('$.alg') -m str RS256 }",
        reply(401, J401, bad) + " unless { var(txn.bearer),jwt_verify(RS256,\"%s\") -m int 1 }"
        % data.jwt_public_pem,
        # decoded once, then queried (2.6's jwt_payload_query without a path gives nothing)
        "http-request set-var(txn.claims) var(txn.bearer),field(2,.),ub64dec",
        "http-request set-var(txn.exp) var(txn.claims),json_query('$.exp','int')",
        "http-request set-var(txn.now) date",
        reply(401, J401, bad) + " unless { var(txn.claims),json_query('$.iss') -m str %s }" % data.issuer,
        reply(401, J401, bad) + " unless { var(txn.claims),json_query('$.aud') -m str %s }" % data.audience,
        reply(401, J401, bad) + " unless { var(txn.exp),sub(txn.now) -m int gt 0 }",
        "http-request set-var(txn.scope) var(txn.claims),json_query('$.scope')",
        *(reply(403, J403) + " if { var(txn.need) -m int %d } !{ var(txn.scope) -m reg (^|\\ )%s(\\ |$) }"
          % (b, s) for _m, _p, s, b in ROUTES),
        "http-request del-header authorization",
        "http-request set-header X-Key-Id %[var(txn.claims),json_query('$.sub')]",
    ]
    tls = " ssl crt %s alpn h2,http/1.1 ssl-min-ver TLSv1.3" % pem

    def frontend(name, port, lines, extra=""):
        return "frontend %s\n    bind 127.0.0.1:%d backlog 4096%s\n%s    default_backend app\n\n" % (
            name, port, extra, "".join("    %s\n" % l for l in lines))

    text = f"""global
    nbthread 1
    maxconn {min(16384, (files() - 128) // 2)}
    ssl-default-bind-ciphersuites {SUITES}
    ssl-default-bind-options prefer-client-ciphers
    tune.h2.max-concurrent-streams {H2_STREAMS}

defaults
    mode http
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 3600s
    timeout server 60s
    timeout http-request 60s
    timeout http-keep-alive 3600s

backend app
    server app 127.0.0.1:{ports.upstream} maxconn 0 pool-purge-delay 60s

backend rates
    stick-table type integer size {size} expire 2m store http_req_rate(60s)

"""
    text += frontend("plain", ports.plain, [])
    text += frontend("tlsplain", ports.tlsplain, [], tls)
    text += frontend("key", ports.key, keyjob)
    text += frontend("tls", ports.tls, keyjob, tls)
    text += frontend("jwt", ports.jwt, jwtjob)
    conf = write(folder / "haproxy.cfg", text)
    return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-q", "-f", str(conf)]
