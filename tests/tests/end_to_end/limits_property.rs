//! The promise itself, attacked: messages and answers are dropped, doubled, late and out of order,
//! gateways crash, clocks jump, limits change, Redis loses everything. Whatever happens, the tokens
//! used in a window are never more than the highest limit that held in it. And mutants of the script
//! show that this test would notice.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::HashMap;

use gateway::limit::leasing::{Answer, Bucket, Message, Next, Reason, RedisClock, Reply, Take};
use policy::window::Period;
use tests::{BucketServer, Dice};
use tokio::sync::oneshot::Receiver;

/// After the clock of the real server, which expires buckets.
const START_MS: u64 = 4_000_000_000_000;
const BUCKET: u128 = 0x5eed;

struct Gateway {
    name: String,
    bucket: Bucket,
    clock: RedisClock,
    is_running: bool,
    /// The message whose answer it waits for, and when it was sent.
    out: Option<(Message, u64)>,
    waiting: Vec<(u32, Receiver<Answer>)>,
    version: u64,
    limit: u32,
}

struct World<'s> {
    server: &'s mut BucketServer,
    dice: Dice,
    names: u64,
    now_us: u64,
    /// The server's clock less ours, milliseconds.
    ahead_ms: i64,
    limit: u32,
    version: u64,
    gateways: Vec<Gateway>,
    /// Messages under way: who sent them, and what.
    net: Vec<(String, Message)>,
    answers: Vec<(String, Message, Reply)>,
    used: HashMap<u32, u64>,
    most: HashMap<u32, u32>,
}

#[derive(Clone, Copy)]
struct Faults {
    crashes: bool,
    losses: bool,
    /// The only gateway spends what it knows to be free while Redis is away.
    alone: bool,
}

impl<'s> World<'s> {
    fn new(server: &'s mut BucketServer, seed: u64, faults: Faults) -> Self {
        server.flush();
        let mut dice = Dice::new(seed);
        let (limit, gateways) = (dice.pick(&[1, 3, 10, 50, 300]), dice.pick(&[1, 2, 3, 5]));
        let gateways = if faults.alone { 1 } else { gateways };
        let ahead_ms = (START_MS + dice.below(1_000)) as i64;
        let mut world = World {
            server,
            dice,
            names: 0,
            now_us: 1_000_000,
            ahead_ms,
            limit,
            version: 1,
            gateways: Vec::new(),
            net: Vec::new(),
            answers: Vec::new(),
            used: HashMap::new(),
            most: HashMap::new(),
        };
        for _ in 0..gateways {
            let gateway = world.gateway();
            world.gateways.push(gateway);
        }
        world
    }

    fn gateway(&mut self) -> Gateway {
        self.names += 1;
        Gateway {
            name: format!("g{}", self.names),
            bucket: Bucket::new(BUCKET, Period::Second, self.limit, self.version, 1),
            clock: RedisClock::default(),
            is_running: false,
            out: None,
            waiting: Vec::new(),
            version: self.version,
            limit: self.limit,
        }
    }

    fn server_ms(&self) -> u64 {
        (self.now_us / 1_000).saturating_add_signed(self.ahead_ms)
    }

    fn drive(&mut self, g: usize) {
        let gateway = &mut self.gateways[g];
        if gateway.out.is_some() || !gateway.is_running {
            return;
        }
        match gateway.bucket.next(gateway.clock.look(self.now_us), self.now_us, true) {
            Next::Idle => gateway.is_running = false,
            Next::Send(message) => {
                gateway.out = Some((message, self.now_us));
                self.net.push((gateway.name.clone(), message));
            }
        }
    }

    fn request(&mut self, g: usize) {
        let cost = self.dice.pick(&[1, 1, 1, 2, 5]);
        let puts_back = self.dice.below(10) == 0;
        let gateway = &mut self.gateways[g];
        if gateway.version != self.version && self.dice.below(3) > 0 {
            // A stale gateway learns of the new limit only some time later.
            (gateway.version, gateway.limit) = (self.version, self.limit);
            gateway.is_running |= gateway.bucket.set_limit(self.limit, self.version);
        }
        let look = gateway.clock.look(self.now_us);
        let take = look.map_or(Take::Missing, |look| gateway.bucket.take(gateway.limit, cost, look));
        match take {
            Take::Taken(taken) if puts_back => gateway.bucket.put_back(taken.window, cost),
            Take::Taken(taken) => {
                *self.used.entry(taken.window).or_default() += u64::from(cost);
                if taken.is_low && gateway.bucket.claim_refill() {
                    gateway.is_running |= gateway.bucket.start(Reason::Refill);
                }
            }
            Take::Missing if gateway.waiting.len() < 4 => {
                let (heard, starts) = gateway.bucket.wait(cost, self.now_us, look);
                gateway.is_running |= starts;
                gateway.waiting.push((cost, heard));
            }
            Take::Missing | Take::Dry => {}
        }
        self.drive(g);
    }

    fn deliver(&mut self) {
        let i = self.dice.below(self.net.len() as u64) as usize;
        let (name, message) = self.net[i].clone();
        if self.dice.unit() < 0.8 {
            self.net.swap_remove(i);
        }
        if self.dice.unit() < 0.1 {
            return;
        }
        let now_ms = self.server_ms();
        let reply = self.server.call(&message, &name, now_ms);
        if self.dice.unit() < 0.85 {
            self.answers.push((name, message, reply));
        }
    }

    fn answer(&mut self) {
        let i = self.dice.below(self.answers.len() as u64) as usize;
        let (name, message, reply) = self.answers.swap_remove(i);
        let Some(g) = self.gateways.iter().position(|gateway| gateway.name == name) else { return };
        let gateway = &mut self.gateways[g];
        let Some((out, sent_us)) = gateway.out else { return };
        if out.seq != message.seq {
            return;
        }
        gateway.out = None;
        gateway.clock.observe("one", reply.now_ms, sent_us, self.now_us);
        let look = gateway.clock.look(self.now_us).unwrap();
        let most = self.most.entry(reply.window).or_default();
        *most = (*most).max(reply.limit);
        gateway.bucket.settle(&message, &reply, look);
        self.hear(g);
        self.drive(g);
    }

    fn hear(&mut self, g: usize) {
        let used = &mut self.used;
        self.gateways[g].waiting.retain_mut(|(cost, heard)| match heard.try_recv() {
            Ok(Answer::Taken(taken)) => {
                *used.entry(taken.window).or_default() += u64::from(*cost);
                false
            }
            Ok(Answer::Over(_) | Answer::CannotTell) => false,
            Err(_) => true,
        });
    }

    fn lose_everything(&mut self) {
        self.server.flush();
        self.net.clear();
        // Before anybody is granted anything, everybody who lives reports: that is what the gateways
        // wait for after they noticed.
        for g in 0..self.gateways.len() {
            let gateway = &mut self.gateways[g];
            gateway.bucket.lost(false);
            (gateway.out, gateway.is_running) = (None, gateway.bucket.start(Reason::Report));
            self.hear(g);
            let look = self.gateways[g].clock.look(self.now_us);
            if let Next::Send(message) = self.gateways[g].bucket.next(look, self.now_us, false) {
                let now_ms = self.server_ms();
                self.server.call(&message, &self.gateways[g].name, now_ms);
                self.gateways[g].bucket.lost(false);
                self.gateways[g].is_running = false;
            }
        }
    }

    /// Redis is away: the only gateway takes what was free, or a whole new window. A message may still
    /// be under way, and its answer may still come.
    fn help_oneself(&mut self, g: usize) {
        let limit = self.gateways[g].limit;
        let bucket = &self.gateways[g].bucket;
        let Some(look) = self.gateways[g].clock.look(self.now_us) else { return };
        let window = bucket.index(look.lo_ms);
        bucket.take_share(window, limit);
        bucket.take_rest(window, 0);
        let most = self.most.entry(window).or_default();
        *most = (*most).max(limit);
        if self.dice.below(2) == 0 {
            self.gateways[g].is_running |= self.gateways[g].bucket.start(Reason::Report);
            self.drive(g);
        }
    }

    fn step(&mut self, faults: Faults) {
        let x = self.dice.unit();
        let g = self.dice.below(self.gateways.len() as u64) as usize;
        match x {
            _ if x < 0.45 => self.request(g),
            _ if x < 0.68 && !self.net.is_empty() => self.deliver(),
            _ if x < 0.84 && !self.answers.is_empty() => self.answer(),
            _ if x < 0.88 => {
                let window = self.gateways[g].bucket.word().window;
                self.gateways[g].is_running |= self.gateways[g].bucket.recall(window);
                self.drive(g);
            }
            _ if x < 0.91 && self.gateways[g].out.is_some() => {
                self.gateways[g].out = None;
                self.gateways[g].bucket.lost(false);
                self.gateways[g].is_running = false;
                self.hear(g);
            }
            _ if x < 0.93 && faults.alone => self.help_oneself(g),
            _ if x < 0.93 && faults.crashes => self.gateways[g] = self.gateway(),
            _ if x < 0.97 => self.now_us += self.dice.pick(&[200, 5_000, 100_000, 400_000, 1_000_000, 2_500_000]),
            _ if x < 0.98 && !faults.losses => self.ahead_ms += self.dice.pick(&[-300, -50, -1, 1, 40, 700]),
            _ if x < 0.99 => {
                self.limit = self.dice.pick(&[1, 3, 10, 50]);
                self.version += 1;
            }
            _ if faults.losses => self.lose_everything(),
            _ => {}
        }
        self.now_us += 50;
    }

    /// Without further faults, everyone who waits is answered soon.
    fn is_answered_in_the_end(&mut self) -> bool {
        for g in 0..self.gateways.len() {
            // What was under way is never answered: its sender hears that it is lost.
            self.gateways[g].out = None;
            self.gateways[g].is_running = self.gateways[g].bucket.lost(true);
            self.hear(g);
        }
        for _ in 0..400 {
            for g in 0..self.gateways.len() {
                self.net.clear();
                self.drive(g);
                if let Some((name, message)) = self.net.pop() {
                    let now_ms = self.server_ms();
                    let reply = self.server.call(&message, &name, now_ms);
                    self.answers = vec![(name, message, reply)];
                    self.answer();
                }
                self.now_us += 1_000;
            }
        }
        self.gateways.iter().all(|gateway| gateway.waiting.is_empty())
    }

    /// The window in which more was used than any limit that held in it allows.
    fn violated(&self) -> Option<(u32, u64, u32)> {
        let mut all = self.used.iter().map(|(w, n)| (*w, *n, self.most.get(w).copied().unwrap_or(0)));
        all.find(|(_, used, most)| *used > u64::from(*most))
    }
}

fn violations(server: &mut BucketServer, trials: u64, faults: Faults) -> Vec<u64> {
    let is_violated = |seed: &u64| {
        let mut world = World::new(server, *seed, faults);
        let steps = world.dice.pick(&[100, 400]);
        let is_violated = (0..steps).any(|_| {
            world.step(faults);
            world.violated().is_some()
        });
        is_violated || !world.is_answered_in_the_end() || world.violated().is_some()
    };
    let mut is_violated = is_violated;
    (0..trials).filter(|seed| is_violated(seed)).collect()
}

const ALL: Faults = Faults { crashes: true, losses: false, alone: false };
/// One gateway, and answers that come after it has helped itself.
const ALONE: Faults = Faults { crashes: false, losses: false, alone: true };
/// A gateway that dies together with what Redis knew of it cannot report: see the bounds.
const LOSSES: Faults = Faults { crashes: false, losses: true, alone: false };

#[test]
fn no_window_is_ever_over_its_limit_whatever_the_network_does() {
    let mut server = BucketServer::start(str::to_owned);
    assert_eq!(violations(&mut server, 2_500, ALL), Vec::<u64>::new());
    assert!(server.calls > 50_000, "{}", server.calls);
}

#[test]
fn no_window_is_ever_over_its_limit_when_redis_loses_everything() {
    let mut server = BucketServer::start(str::to_owned);
    assert_eq!(violations(&mut server, 1_500, LOSSES), Vec::<u64>::new());
}

#[test]
fn no_window_is_over_its_limit_when_the_only_gateway_helps_itself() {
    let mut server = BucketServer::start(str::to_owned);
    assert_eq!(violations(&mut server, 2_500, ALONE), Vec::<u64>::new());
}

/// When all buckets are in use, a request gets one that is not kept. If such a bucket took a share,
/// every request would get a share of its own.
#[test]
fn a_bucket_that_is_not_kept_takes_no_share() {
    let bucket = Bucket::new(BUCKET, Period::Second, 10, 1, 1).single();
    bucket.take_share(5, 10);
    assert!(!bucket.take_rest(5, 0));
    assert_eq!(bucket.word().tokens, 0);
}

fn mutant_is_caught(from: &str, to: &str, faults: Faults) {
    let mut server = BucketServer::start(|script| {
        let mutant = script.replace(from, to);
        assert_ne!(mutant, script, "the mutation does not fit the script any more");
        mutant
    });
    assert!(!violations(&mut server, 2_500, faults).is_empty(), "{from} -> {to}: nobody noticed");
}

#[test]
fn a_script_that_obeys_old_messages_is_caught() {
    mutant_is_caught("if seq <= si then", "if false then", ALL);
}

#[test]
fn a_script_that_adds_instead_of_replacing_is_caught() {
    mutant_is_caught("g, gi = g + held - gi, held", "g, gi = g + math.min(held - gi, 0) * 2, held", ALL);
}

#[test]
fn a_script_that_reopens_windows_is_caught() {
    let from = "local fresh = not (stored and stored >= w)";
    mutant_is_caught(from, "local fresh = not (stored and stored == w)", ALL);
}

#[test]
fn a_script_that_does_not_heal_lost_writes_is_caught() {
    mutant_is_caught("g, gi = g + held - gi, held", "held = math.min(held, gi) g, gi = g + held - gi, held", LOSSES);
}

#[test]
fn a_script_that_grants_more_than_is_free_is_caught() {
    mutant_is_caught("granted = math.min(free, need)", "granted = need", ALL);
}

#[test]
fn a_script_that_leases_ahead_of_what_is_free_is_caught() {
    mutant_is_caught("floor((free - granted) * share", "floor((free + 2) * share", ALL);
}

/// The script reckons months by itself, because windows end by the clock of Redis.
#[test]
fn the_script_and_the_policy_agree_on_every_window() {
    let mut server = BucketServer::start(str::to_owned);
    let mut dice = Dice::new(1);
    for n in 0..3_000u64 {
        let period =
            dice.pick(&[Period::Second, Period::Minute, Period::Hour, Period::Day, Period::Month, Period::Month]);
        let bucket = u128::from(dice.below(u64::MAX)) << 64 | u128::from(dice.below(u64::MAX));
        let now_ms = 4_000_000_000_000 + dice.below(200_000_000_000);
        let made = Bucket::new(bucket, period, 10, 1, n);
        let (_heard, starts) = made.wait(1, 0, None);
        let (true, Next::Send(message)) = (starts, made.next(None, 0, true)) else { panic!("a message is due") };
        let window = period.window(now_ms, period.phase_ms(bucket));
        assert_eq!(server.call(&message, "p", now_ms).window, window.index, "{period:?} at {now_ms}");
        assert_eq!(server.end_ms(&message, now_ms), window.end_ms as i64, "{period:?} at {now_ms}");
    }
}
