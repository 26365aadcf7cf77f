-- One bucket of a limit: who holds how many of its tokens. One hash, one key, one slot.
--
-- A gateway never says "take two more"; it says "in window c I hold or have used h tokens, u of them
-- used", and what the bucket knows of it is replaced by that. So a message may be lost, doubled,
-- late or repeated after an outage, and the sum stays right.
--
-- KEYS[1]  the bucket
-- ARGV  1 window in ms, 0 for UTC calendar months   2 phase in ms      3 limit   4 version of the limit
--       5 gateway's mark                            6 sequence number of the message
--       7 window that the report is about, -1 none  8 held or used     9 used
--      10 tokens for requests that wait            11 cost of the first of them
--      12 tokens to lease ahead                    13 divisor * 100   14 demand assumed of an unknown gateway
-- Answer  status (0; 1: what is said to be held was not known; -1: older than what is known), window, its end in ms, now in ms, granted,
--         granted for waiting requests, free, used by all, held unused by others, gateways, tight, limit
local key, mark = KEYS[1], 'r:' .. ARGV[5]
local length, phase = tonumber(ARGV[1]), tonumber(ARGV[2])
local limit, version = tonumber(ARGV[3]), tonumber(ARGV[4])
local seq, about = tonumber(ARGV[6]), tonumber(ARGV[7])
local held, used = tonumber(ARGV[8]), tonumber(ARGV[9])
local need, unit, want = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local floor = math.floor
local clock = redis.call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)

-- Proleptic Gregorian calendar: days since 1970 to a month counted from January 1970, and back.
local function month_of(ms)
  local z = floor(ms / 86400000) + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  return (yoe + era * 400 - 1970) * 12 + mp + 2
end
local function month_start(index)
  local mp = (index - 2) % 12
  local year = (index - 2 - mp) / 12 + 1970
  local era = floor(year / 400)
  local yoe = year - era * 400
  local doe = yoe * 365 + floor(yoe / 4) - floor(yoe / 100) + floor((153 * mp + 2) / 5)
  return (era * 146097 + doe - 719468) * 86400000
end

local w = length > 0 and floor((now - phase) / length) or month_of(now)
if about == w + 1 then w = about end                        -- a slower clock after a failover reopens nothing
local b = redis.call('HMGET', key, 'w', 'g', 'u', 'n', 'p', 'x', 'l', 'v', mark)
local stored = tonumber(b[1])
local g, u, n, p, x = 0, 0, 0, 0, 0                         -- out, used, gateways, gateways before, tight
local gi, ui, si, known = 0, 0, 0, false                    -- this gateway: out, used, sequence number
local fresh = not (stored and stored >= w)                  -- >=: nor does a clock that steps back
if not fresh then
  w = stored
  g, u, n, p, x = tonumber(b[2]), tonumber(b[3]), tonumber(b[4]), tonumber(b[5]), tonumber(b[6])
  local stored_limit, stored_version = tonumber(b[7]), tonumber(b[8])
  if stored_version > version then limit, version = stored_limit, stored_version
  elseif limit > stored_limit then x = 0 end                -- there is room again
  if b[9] then
    local a1, a2, a3 = string.match(b[9], '^(%d+):(%d+):(%d+)$')
    gi, ui, si, known = tonumber(a1), tonumber(a2), tonumber(a3), true
  end
elseif stored == w - 1 then
  p = tonumber(b[4])
end
local ends = length > 0 and (w + 1) * length + phase or month_start(w + 1)
if seq <= si then return {-1, w, ends, now, 0, 0, 0, u, 0, n, x, limit} end
if about ~= w then held, used = 0, 0 end
local status = held > 0 and not known and 1 or 0
g, gi = g + held - gi, held                                 -- heals lost grants, lost answers and lost writes
local free = math.max(0, limit - g)
local granted = 0
if need > 0 and free >= unit then granted = math.min(free, need) end
local ahead = 0
if want > 0 and x == 0 and granted == need then
  local prior = tonumber(ARGV[14])
  local gateways = math.max(n + (known and 0 or 1), p, 1)
  local share = (used + granted + prior) / (u - ui + used + granted + prior * gateways)
  ahead = math.min(want, floor((free - granted) * share * 100 / tonumber(ARGV[13])))
end
g, gi = g + granted + ahead, gi + granted + ahead
u, ui = u + used + granted - ui, used + granted
local others = (g - u) - (gi - ui)
if granted < need and others > 0 then x = 1 end
local keep = known or gi > 0                                -- who holds nothing takes no room
if keep and not known then n = n + 1 end
local me = gi .. ':' .. ui .. ':' .. seq
if fresh then
  if keep then
    redis.call('DEL', key)
    redis.call('HSET', key, 'w', w, 'g', g, 'u', u, 'n', n, 'p', p, 'x', x, 'l', limit, 'v', version, mark, me)
    redis.call('PEXPIREAT', key, ends + math.min(length > 0 and length or 120000, 120000))
  end
elseif keep and known and x == tonumber(b[6]) and version == tonumber(b[8]) and limit == tonumber(b[7]) then
  redis.call('HSET', key, 'g', g, 'u', u, mark, me)
elseif keep then
  redis.call('HSET', key, 'g', g, 'u', u, 'n', n, 'x', x, 'l', limit, 'v', version, mark, me)
elseif x ~= tonumber(b[6]) or version ~= tonumber(b[8]) or limit ~= tonumber(b[7]) then
  redis.call('HSET', key, 'x', x, 'l', limit, 'v', version)
end
return {status, w, ends, now, granted + ahead, granted, math.max(0, limit - g), u, others, n, x, limit}
