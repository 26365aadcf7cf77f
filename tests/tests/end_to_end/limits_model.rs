//! The limiter against the model that its protocol was worked out with: the real state machine of a
//! gateway, the real script on a real redis-server, and a network, clients and a clock that are
//! played. What is counted here is exact: admissions over a limit, refusals that were not needed,
//! calls to Redis for each request.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use gateway::limit::leasing::{Answer, Bucket, Message, Next, Reason, RedisClock, Reply, Take};
use policy::window::Period;
use tests::{BucketServer, Dice};
use tokio::sync::oneshot::Receiver;

const MINUTE_US: u64 = 60_000_000;
/// The clock of the play at the start of a run: after that of the real server, which expires buckets.
const EPOCH_MS: u64 = 66_666_667 * 60_000;

#[derive(Debug)]
enum Event {
    Arrive(usize),
    Execute(usize, Box<Message>),
    Reply(usize, Box<(Message, Reply, u64)>),
    Step(usize),
    Recall(usize, u32),
}

struct Gateway {
    bucket: Bucket,
    clock: RedisClock,
    process: String,
    /// Messages and answers of a gateway keep their order.
    up_us: u64,
    down_us: u64,
    waiting: VecDeque<Receiver<Answer>>,
}

/// What a run is measured by.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    over: u64,
    false_refusals: u64,
    waited: u64,
    calls: u64,
    admitted: HashMap<u32, u64>,
}

struct Play<'s> {
    server: &'s mut BucketServer,
    limit: u32,
    now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    held: Vec<Option<Event>>,
    gateways: Vec<Gateway>,
    dice: Dice,
    promised: HashMap<u32, i64>,
    tally: Tally,
}

impl<'s> Play<'s> {
    /// `phase_s`: how long after the full minute the windows of the bucket begin.
    fn new(server: &'s mut BucketServer, gateways: usize, limit: u32, phase_s: u64, seed: u64) -> Self {
        let id = u128::from(seed) * 60_000 + u128::from(phase_s);
        let gateway = |n: usize| Gateway {
            bucket: Bucket::new(id, Period::Minute, limit, 1, 1),
            clock: RedisClock::default(),
            process: format!("{seed}.{limit}.{gateways}.{n}"),
            up_us: 0,
            down_us: 0,
            waiting: VecDeque::new(),
        };
        server.flush();
        Play {
            server,
            limit,
            now_us: 0,
            events: BinaryHeap::new(),
            held: Vec::new(),
            gateways: (0..gateways).map(gateway).collect(),
            dice: Dice::new(seed),
            promised: HashMap::new(),
            tally: Tally::default(),
        }
    }

    fn at(&mut self, at_us: u64, event: Event) {
        self.held.push(Some(event));
        let n = self.held.len() - 1;
        self.events.push(Reverse((at_us, n as u64, n)));
    }

    /// One way through the network: 0.25 ms and an exponential rest of 0.1 ms.
    fn way_us(&mut self) -> u64 {
        250 + self.dice.exponential(100.0) as u64
    }

    fn server_ms(&self) -> u64 {
        EPOCH_MS + self.now_us / 1_000
    }

    fn run(mut self, arrivals: &[(u64, usize)]) -> Tally {
        for (at, gateway) in arrivals {
            self.at(*at, Event::Arrive(*gateway));
        }
        while let Some(Reverse((at, _, n))) = self.events.pop() {
            self.now_us = at;
            match self.held[n].take().unwrap() {
                Event::Arrive(g) => self.arrive(g),
                Event::Execute(g, message) => self.execute(g, *message),
                Event::Reply(g, answer) => self.reply(g, answer.0, answer.1, answer.2),
                Event::Step(g) => self.step(g),
                Event::Recall(g, window) => {
                    if self.gateways[g].bucket.recall(window) {
                        self.step(g);
                    }
                }
            }
        }
        let limit = u64::from(self.limit);
        self.tally.over = self.tally.admitted.values().map(|n| n.saturating_sub(limit)).sum();
        self.tally
    }

    fn admit(&mut self, window: u32) {
        *self.tally.admitted.entry(window).or_default() += 1;
    }

    /// A refusal is judged by the window in which it was decided: here, or in the server.
    fn refuse(&mut self, window: u32) {
        let taken = self.tally.admitted.get(&window).copied().unwrap_or(0) as i64;
        // Tokens on their way to those who wait, and tokens that others return for those who wait.
        let spoken_for = self.promised.get(&window).copied().unwrap_or(0)
            + self.gateways.iter().map(|gateway| gateway.waiting.len() as i64).sum::<i64>();
        if taken + spoken_for < i64::from(self.limit) {
            self.tally.false_refusals += 1;
        }
    }

    fn arrive(&mut self, g: usize) {
        self.tally.requests += 1;
        let (limit, now_us) = (self.limit, self.now_us);
        let gateway = &mut self.gateways[g];
        let take = gateway.clock.look(now_us).map_or(Take::Missing, |look| gateway.bucket.take(limit, 1, look));
        match take {
            Take::Taken(taken) => {
                let starts = taken.is_low && gateway.bucket.claim_refill() && gateway.bucket.start(Reason::Refill);
                self.admit(taken.window);
                if starts {
                    self.step(g);
                }
            }
            Take::Missing => {
                let (heard, starts) = gateway.bucket.wait(1, now_us, gateway.clock.look(now_us));
                gateway.waiting.push_back(heard);
                self.tally.waited += 1;
                if starts {
                    self.step(g);
                }
            }
            Take::Dry => {
                let window = gateway.bucket.index(EPOCH_MS + now_us / 1_000);
                self.refuse(window);
            }
        }
    }

    fn step(&mut self, g: usize) {
        let gateway = &self.gateways[g];
        let Next::Send(message) = gateway.bucket.next(gateway.clock.look(self.now_us), self.now_us, true) else {
            return;
        };
        self.tally.calls += 1;
        let at = (self.now_us + self.way_us()).max(self.gateways[g].up_us + 1);
        self.gateways[g].up_us = at;
        // The instant of sending travels along.
        self.at(at, Event::Execute(g, Box::new(message)));
        self.gateways[g].down_us = self.gateways[g].down_us.max(self.now_us);
    }

    fn execute(&mut self, g: usize, message: Message) {
        let sent_us = self.now_us.saturating_sub(5_000);
        let reply = self.server.call(&message, &self.gateways[g].process, self.server_ms());
        *self.promised.entry(reply.window).or_default() += i64::from(reply.for_need);
        let at = (self.now_us + self.way_us()).max(self.gateways[g].down_us + 1);
        self.gateways[g].down_us = at;
        self.at(at, Event::Reply(g, Box::new((message, reply, sent_us))));
    }

    fn reply(&mut self, g: usize, message: Message, reply: Reply, sent_us: u64) {
        *self.promised.entry(reply.window).or_default() -= i64::from(reply.for_need);
        let gateway = &mut self.gateways[g];
        gateway.clock.observe("one", reply.now_ms, sent_us.max(self.now_us.saturating_sub(1_000)), self.now_us);
        let look = gateway.clock.look(self.now_us).unwrap();
        let settled = gateway.bucket.settle(&message, &reply, look);
        for _ in 0..gateway.waiting.len() {
            let mut heard = self.gateways[g].waiting.pop_front().unwrap();
            match heard.try_recv() {
                Ok(Answer::Taken(taken)) => self.admit(taken.window),
                Ok(Answer::Over(window)) => self.refuse(window),
                Ok(Answer::CannotTell) => panic!("Redis answers in this play"),
                Err(_) => self.gateways[g].waiting.push_back(heard),
            }
        }
        if let Some(window) = settled.recall {
            self.tally.calls += 1;
            for other in 0..self.gateways.len() {
                let at = self.now_us + self.way_us() + self.way_us();
                self.at(at, Event::Recall(other, window));
            }
        }
        match settled.pause {
            Some(pause) => self.at(self.now_us + pause.as_micros() as u64, Event::Step(g)),
            None => self.step(g),
        }
    }
}

/// Who asks when: the patterns of the model, over so many minutes.
fn arrivals(pattern: &str, gateways: usize, limit: u32, minutes: u64, seed: u64) -> Vec<(u64, usize)> {
    let mut dice = Dice::new(seed * 31 + gateways as u64);
    let (limit, many) = (u64::from(limit), gateways as u64);
    let mut list = Vec::new();
    for minute in 0..minutes {
        let start = minute * MINUTE_US;
        let within = |list: &mut Vec<(u64, usize)>, n: u64, from: f64, length: f64, dice: &mut Dice| {
            for _ in 0..n {
                let at = start + ((from + dice.unit() * length) * 1e6) as u64;
                list.push((at, dice.below(many) as usize));
            }
        };
        match pattern {
            "steady70" => within(&mut list, limit * 7 / 10, 0.0, 60.0, &mut dice),
            "flood10" => within(&mut list, limit * 10, 0.0, 60.0, &mut dice),
            "even100" => within(&mut list, limit, 0.0, 60.0, &mut dice),
            "burst10" => {
                within(&mut list, limit / 5, 0.0, 60.0, &mut dice);
                let from = dice.unit() * 48.0;
                within(&mut list, limit * 2, from, 12.0, &mut dice);
            }
            "edge" => {
                within(&mut list, limit, 0.0, 0.5, &mut dice);
                within(&mut list, limit, 59.5, 0.5, &mut dice);
            }
            "skew100" => {
                let (hot, then, turn) = (dice.below(many), dice.below(many), 0.3 + 0.4 * dice.unit());
                for _ in 0..limit {
                    let at = dice.unit();
                    let hottest = if at < turn { hot } else { then };
                    let to = if dice.unit() < 0.9 { hottest } else { dice.below(many) };
                    list.push((start + (at * 60e6) as u64, to as usize));
                }
            }
            other => panic!("{other}"),
        }
    }
    list.sort_unstable();
    list
}

/// Calls for each request in the model, for 1, 2, 4 and 16 gateways.
const MODEL: &[(&str, u32, [f64; 4])] = &[
    ("steady70", 100, [0.260, 0.282, 0.346, 0.565]),
    ("steady70", 200, [0.255, 0.260, 0.286, 0.376]),
    ("steady70", 1000, [0.051, 0.052, 0.080, 0.115]),
    ("burst10", 100, [0.128, 0.152, 0.188, 0.419]),
    ("burst10", 200, [0.120, 0.129, 0.153, 0.269]),
    ("burst10", 1000, [0.025, 0.029, 0.037, 0.080]),
    ("flood10", 100, [0.028, 0.033, 0.040, 0.095]),
    ("flood10", 200, [0.026, 0.029, 0.032, 0.059]),
    ("flood10", 1000, [0.006, 0.006, 0.008, 0.017]),
    ("skew100", 100, [0.270, 0.337, 0.415, 0.478]),
    ("skew100", 200, [0.260, 0.290, 0.342, 0.425]),
    ("skew100", 1000, [0.054, 0.071, 0.094, 0.200]),
    ("even100", 100, [0.270, 0.298, 0.373, 0.713]),
    ("even100", 200, [0.260, 0.276, 0.305, 0.522]),
    ("even100", 1000, [0.054, 0.061, 0.077, 0.178]),
    ("edge", 100, [0.140, 0.160, 0.203, 0.456]),
    ("edge", 200, [0.133, 0.141, 0.168, 0.305]),
    ("edge", 1000, [0.028, 0.032, 0.040, 0.088]),
];

#[test]
fn nothing_is_over_admitted_or_wrongly_refused_and_calls_are_those_of_the_model() {
    let mut server = BucketServer::start(str::to_owned);
    let mut worst = Vec::new();
    for (pattern, limit, model) in MODEL {
        for (gateways, model) in [1, 2, 4, 16].into_iter().zip(model) {
            let mut sum = Tally::default();
            for seed in 1..=6 {
                let arrivals = arrivals(pattern, gateways, *limit, 4, seed);
                if seed <= 2 {
                    let shifted = Play::new(&mut server, gateways, *limit, 1 + seed * 17, seed).run(&arrivals);
                    assert_eq!((shifted.over, shifted.false_refusals), (0, 0), "{pattern} {limit} {gateways}, shifted");
                }
                let tally = Play::new(&mut server, gateways, *limit, 0, seed).run(&arrivals);
                sum.requests += tally.requests;
                sum.calls += tally.calls;
                sum.over += tally.over;
                sum.waited += tally.waited;
                sum.false_refusals += tally.false_refusals;
            }
            let calls = sum.calls as f64 / sum.requests as f64;
            let waited = sum.waited as f64 / sum.requests as f64 * 100.0;
            println!(
                "{pattern:9} {limit:5} {gateways:3} over {} false {} calls {calls:.3} model {model:.3} waited {waited:.1} %",
                sum.over, sum.false_refusals
            );
            worst.push((calls / model, format!("{pattern} {limit} {gateways}"), sum.over, sum.false_refusals));
        }
    }
    for (ratio, what, over, false_refusals) in &worst {
        assert_eq!((*over, *false_refusals), (0, 0), "{what}");
        assert!(*ratio <= 1.10, "{what}: {ratio:.2} times the calls of the model");
    }
}
