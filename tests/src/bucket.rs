//! The real bucket script on a real redis-server, at a time of the test's choosing; and dice.

use gateway::limit::leasing::{Call, Message, Reply, SCRIPT};

use crate::redis::Redis;

/// Deterministic dice (SplitMix64): a failing seed fails again.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.roll() % below.max(1)
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponential with a mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A redis-server that runs the script, or a mutant of it, with a clock that the test sets.
pub struct BucketServer {
    _server: Redis,
    connection: redis::Connection,
    script: String,
    digest: String,
    pub calls: u64,
}

impl BucketServer {
    /// `mutate` changes the script; the clock is an argument instead of `TIME`.
    pub fn start(mutate: impl Fn(&str) -> String) -> Self {
        let server = Redis::start_with(&["--appendonly", "no"]);
        let client = redis::Client::open(server.url()).unwrap();
        let script = SCRIPT.replace("redis.call('TIME')", "{ARGV[15], ARGV[16]}");
        assert_ne!(script, SCRIPT, "the script asks for the time in another way now");
        let script = mutate(&script);
        let digest = redis::Script::new(&script).get_hash().to_owned();
        let connection = client.get_connection().unwrap();
        BucketServer { _server: server, connection, script, digest, calls: 0 }
    }

    /// Delivers a message at a time of the server's clock.
    pub fn call(&mut self, message: &Message, process: &str, now_ms: u64) -> Reply {
        self.calls += 1;
        let send = |call: Call<'_>, connection: &mut redis::Connection| {
            let mut command = message.command(call, process);
            command.arg(now_ms / 1_000).arg(now_ms % 1_000 * 1_000);
            command.query::<Vec<i64>>(connection)
        };
        let list = send(Call::Digest(&self.digest), &mut self.connection)
            .or_else(|_| send(Call::Text(&self.script), &mut self.connection))
            .unwrap();
        Reply::read(&list).unwrap()
    }

    /// The end of the window as the script reckons it.
    pub fn end_ms(&mut self, message: &Message, now_ms: u64) -> i64 {
        let mut command = message.command(Call::Text(&self.script), "x");
        command.arg(now_ms / 1_000).arg(now_ms % 1_000 * 1_000);
        command.query::<Vec<i64>>(&mut self.connection).unwrap()[2]
    }

    /// Loses everything.
    pub fn flush(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection).unwrap();
    }

    /// Bytes that a bucket takes in the server, and its fields.
    pub fn bytes(&mut self, bucket: u128) -> u64 {
        let key = gateway::limit::leasing::bucket_key(bucket);
        redis::cmd("MEMORY").arg("USAGE").arg(key).query(&mut self.connection).unwrap_or(0)
    }
}
