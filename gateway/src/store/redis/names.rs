//! Names of keys in Redis, the one-key scripts, and small conversions.

use redis::Value;

use super::super::Counter;

/// Entries of the change stream kept for gateways that lag.
pub(super) const CHANGES_KEPT: usize = 100_000;
/// Longest wait for changes before an empty answer, in milliseconds.
pub(super) const WAIT_MS: u64 = 1_000;
/// Tries of a compare-and-set before giving up: as many writers at once on one record.
pub(super) const TRIES_MAX: usize = 16;

pub(super) const CHANGES: &str = "tollgate:changes";
pub(super) const GATEWAYS: &str = "tollgate:gateways";
pub(super) const ORGANIZATIONS: &str = "tollgate:organizations";
pub(super) const ALL_KEYS: &str = "tollgate:keys";
pub(super) const COUNTERS: &str = "tollgate:counters";

/// Adds to counters, a hash field each; a newer window starts again. One key.
pub(super) const ADD: &str = "local out = {} for i = 1, #ARGV, 3 do \
    local w, u = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]) \
    local old = redis.call('HGET', KEYS[1], ARGV[i]) \
    if old then local ow, ou = string.match(old, '(%d+):(%d+)') ow, ou = tonumber(ow), tonumber(ou) \
        if ow == w then u = u + ou elseif ow > w then w, u = ow, ou end end \
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%d:%d', w, u)) \
    out[#out + 1] = {w, u} end return out";
/// The members of a sorted set after a place, with their scores; ARGV: score and member of the place (or
/// nothing), how many, and `rev` for the highest first. The place is known by its score, wherever the member
/// is by now: for a moment a probe stands there. One key.
pub(super) const PAGE: &str = "local rev, first = ARGV[4] == 'rev', 0 \
    if ARGV[2] ~= '' then local probe = ARGV[2] .. string.char(1) \
        redis.call('ZADD', KEYS[1], ARGV[1], probe) \
        first = redis.call(rev and 'ZREVRANK' or 'ZRANK', KEYS[1], probe) \
        redis.call('ZREM', KEYS[1], probe) \
        if rev and redis.call('ZREVRANGE', KEYS[1], first, first)[1] == ARGV[2] then first = first + 1 end end \
    return redis.call(rev and 'ZREVRANGE' or 'ZRANGE', KEYS[1], first, first + ARGV[3] - 1, 'WITHSCORES')";
/// Notes an exposure, unless a later one is known. One key.
pub(super) const EXPOSED: &str = "local old = redis.call('HGET', KEYS[1], 'exposed') \
    if old and tonumber(string.match(old, '%d+')) > tonumber(ARGV[1]) then return 0 end \
    redis.call('HSET', KEYS[1], 'exposed', ARGV[2]) return 1";
/// Drops counters that are still as they were read. One key.
pub(super) const DROP: &str = "for i = 1, #ARGV, 2 do if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end end return 0";
/// Counters in one call.
pub(super) const COUNTERS_AT_ONCE: usize = 200;

pub(super) fn counter_field(counter: &Counter) -> String {
    format!("{:032x}/{}", counter.bucket, counter.period.short())
}

pub(super) fn key_by_digest(hex: &str) -> String {
    format!("tollgate:key:{{{hex}}}")
}

pub(super) fn digest_by_id(id: &str) -> String {
    format!("tollgate:id:{{{id}}}")
}

pub(super) fn usage_by_id(id: &str) -> String {
    format!("tollgate:usage:{{{id}}}")
}

pub(super) fn organization_by_id(id: &str) -> String {
    format!("tollgate:organization:{{{id}}}")
}

pub(super) fn keys_of(organization: &str) -> String {
    format!("tollgate:keys:{{{organization}}}")
}

/// Every text inside an answer, in order.
pub(super) fn texts(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Value::BulkString(bytes) = value {
        found.push(String::from_utf8_lossy(bytes).into_owned());
    } else if let Value::SimpleString(text) | Value::VerbatimString { text, .. } = value {
        found.push(text.clone());
    } else if let Value::Array(list) | Value::Set(list) = value {
        found.extend(list.iter().flat_map(texts));
    } else if let Value::Map(entries) = value {
        found.extend(entries.iter().flat_map(|(name, value)| texts(name).into_iter().chain(texts(value))));
    }
    found
}
