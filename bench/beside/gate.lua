-- The checks of the peer nginx-lua: loaded once by init_by_lua, before the workers start. Names between
-- @ are filled in by nginx.py.
local ffi = require "ffi"
local b64 = require "ngx.base64"
local cjson = require "cjson.safe"
local ngx = ngx
local var, header = ngx.var, ngx.header
local get_method, now, time = ngx.req.get_method, ngx.now, ngx.time
local sub, find, lower, byte = string.sub, string.find, string.lower, string.byte
local floor, tonumber = math.floor, tonumber
local band = require("bit").band
local tcp = ngx.socket.tcp
local C = ffi.C

local M = {}

-- keys -------------------------------------------------------------------
local keys = {}
for line in io.lines("@FOLDER@/keys.tsv") do
    local key, id, mask, limit = line:match("^(%S+)\t(%S+)\t(%d+)\t(%d+)$")
    keys[key] = { id = id, mask = tonumber(mask), limit = tonumber(limit), win = -1, wkey = "" }
end

local function refuse(status, body, name, value)
    ngx.status = status
    header["Content-Type"] = "application/json"
    header["Content-Length"] = #body
    if name then header[name] = value end
    ngx.print(body)
    return ngx.exit(status)
end

local function not_found()
    return refuse(404, '@J404@')
end

local function unauthorized(value)
    return refuse(401, '@J401@', "WWW-Authenticate", value or "Bearer")
end

local function bearer()
    local auth = var.http_authorization
    if not auth then return nil end
    if sub(auth, 1, 7) ~= "Bearer " and lower(sub(auth, 1, 7)) ~= "bearer " then return nil end
    return sub(auth, 8)
end

-- counters: fixed windows of a minute, one incr a request -------------------
local dict

local function incr_shared(wkey)
    local count, err = dict:incr(wkey, 1, 0, 120)
    return count
end

local REDIS_PORT = @REDIS@
local function redis_incr(wkey)
    local sock = tcp()
    sock:settimeouts(1000, 1000, 1000)
    if not sock:connect("127.0.0.1", REDIS_PORT, { pool_size = 1024 }) then return nil end
    if not sock:send("*2\r\n$4\r\nINCR\r\n$" .. #wkey .. "\r\n" .. wkey .. "\r\n") then return nil end
    local line = sock:receive()
    if not line or byte(line) ~= 58 then sock:close() return nil end
    local count = tonumber(sub(line, 2))
    if count == 1 then          -- once a key and window: the expiry
        if not sock:send("*3\r\n$6\r\nEXPIRE\r\n$" .. #wkey .. "\r\n" .. wkey .. "\r\n$3\r\n120\r\n")
           or not sock:receive() then sock:close() return nil end
    end
    sock:setkeepalive(3600000, 1024)
    return count
end

local function check_key(need, incr)
    local token = bearer()
    local rec = token and keys[token]
    if not rec then return unauthorized() end
    if band(rec.mask, need) == 0 then return refuse(403, '@J403@') end
    local t = now()
    local win = floor(t / 60)
    if rec.win ~= win then      -- the name of this window's counter, built once
        rec.win = win
        rec.wkey = "rl:" .. rec.id .. ":" .. win
    end
    local count = incr(rec.wkey)
    if not count then return refuse(503, '@J503@') end
    local limit = rec.limit
    local left = limit - count
    local reset = (win + 1) * 60 - floor(t)
    header["X-RateLimit-Limit"] = limit
    header["X-RateLimit-Remaining"] = left > 0 and left or 0
    header["X-RateLimit-Reset"] = reset
    if left < 0 then return refuse(429, '@J429@', "Retry-After", reset) end
    var.key_id = rec.id
end

-- jwt --------------------------------------------------------------------
ffi.cdef[[
typedef struct bio_st BIO;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_pkey_ctx_st EVP_PKEY_CTX;
typedef struct evp_md_st EVP_MD;
typedef struct { unsigned long long opaque[32]; } gate_sha256_ctx;
BIO *BIO_new_mem_buf(const void *buf, int len);
int BIO_free(BIO *a);
EVP_PKEY *PEM_read_bio_PUBKEY(BIO *bp, EVP_PKEY **x, void *cb, void *u);
EVP_PKEY_CTX *EVP_PKEY_CTX_new(EVP_PKEY *pkey, void *e);
int EVP_PKEY_verify_init(EVP_PKEY_CTX *ctx);
int EVP_PKEY_CTX_set_rsa_padding(EVP_PKEY_CTX *ctx, int pad);
int EVP_PKEY_CTX_set_signature_md(EVP_PKEY_CTX *ctx, const EVP_MD *md);
const EVP_MD *EVP_sha256(void);
int EVP_PKEY_verify(EVP_PKEY_CTX *ctx, const char *sig, size_t siglen,
                    const unsigned char *tbs, size_t tbslen);
int SHA256_Init(gate_sha256_ctx *c);
int SHA256_Update(gate_sha256_ctx *c, const void *data, size_t len);
int SHA256_Final(unsigned char *md, gate_sha256_ctx *c);
void ERR_clear_error(void);
]]

local ISSUER, AUDIENCE = @ISSUER@, @AUDIENCE@
local sha = ffi.new("gate_sha256_ctx")
local digest = ffi.new("unsigned char[32]")
local verify_ctx
do
    local pem = assert(io.open(@PEM@)):read("*a")
    local bio = C.BIO_new_mem_buf(pem, #pem)
    local pkey = C.PEM_read_bio_PUBKEY(bio, nil, nil, nil)
    C.BIO_free(bio)
    assert(pkey ~= nil, "no public key")
    verify_ctx = C.EVP_PKEY_CTX_new(pkey, nil)
    assert(C.EVP_PKEY_verify_init(verify_ctx) == 1)
    assert(C.EVP_PKEY_CTX_set_rsa_padding(verify_ctx, 1) == 1)      -- PKCS #1 v1.5
    assert(C.EVP_PKEY_CTX_set_signature_md(verify_ctx, C.EVP_sha256()) == 1)
end

local function rs256(signed, sig)
    C.SHA256_Init(sha)
    C.SHA256_Update(sha, signed, #signed)
    C.SHA256_Final(digest, sha)
    if C.EVP_PKEY_verify(verify_ctx, sig, #sig, digest, 32) == 1 then return true end
    C.ERR_clear_error()         -- nginx reads the same error queue
    return false
end

local BAD = 'Bearer error="invalid_token"'

local function check_jwt(scope)
    local token = bearer()
    if not token then return unauthorized() end
    local dot1 = find(token, ".", 1, true)
    local dot2 = dot1 and find(token, ".", dot1 + 1, true)
    if not dot2 then return unauthorized(BAD) end
    local head = b64.decode_base64url(sub(token, 1, dot1 - 1))
    local body = b64.decode_base64url(sub(token, dot1 + 1, dot2 - 1))
    local sig = b64.decode_base64url(sub(token, dot2 + 1))
    head = head and cjson.decode(head)
    if type(head) ~= "table" or head.alg ~= "RS256" or not body or not sig
       or not rs256(sub(token, 1, dot2 - 1), sig) then
        return unauthorized(BAD)
    end
    local claims = cjson.decode(body)
    if type(claims) ~= "table" or claims.iss ~= ISSUER then return unauthorized(BAD) end
    local aud, ok = claims.aud, false
    if type(aud) == "table" then
        for i = 1, #aud do ok = ok or aud[i] == AUDIENCE end
    else
        ok = aud == AUDIENCE
    end
    local exp = claims.exp
    if not ok or type(exp) ~= "number" or exp <= time() then return unauthorized(BAD) end
    local granted = claims.scope
    if type(granted) ~= "string" or not find(" " .. granted .. " ", scope, 1, true) then
        return refuse(403, '@J403@')
    end
    var.key_id = claims.sub or ""
end

-- one function per location; the method picks the route ---------------------
@HANDLERS@

function M.init()
    dict = ngx.shared.counters
end

return M
