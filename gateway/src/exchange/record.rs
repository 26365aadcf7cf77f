//! The one record of a request, made when it is over; metrics, access log and last use are fed from it.

use std::time::Duration;

use policy::Identity;
use policy::target::METHOD_BYTES_MAX;

use super::Exchanges;
use super::state::{Exchange, Outcome};
use super::tunnel::Passed;
use crate::admit::found_label;
use crate::audit::{Labels, Record, RecordedId};
use crate::base::clock::micros;
use crate::base::message::Version;
use crate::downstream::Session;
use crate::limit::Certainty;

/// What a record says of the messages themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Empty where the head could not be read.
    method: &'a str,
    protocol: &'static str,
    /// Bytes of the request's body.
    bytes_in: usize,
    /// Bytes of the answer's body.
    bytes_out: usize,
}

impl<'a> Facts<'a> {
    /// Of a session whose exchange is over.
    pub(super) fn of(session: &'a Session) -> Self {
        let (head, (bytes_in, bytes_out)) = (session.head(), session.body_bytes());
        let protocol = if head.version == Version::Http2 { "h2" } else { "http/1.1" };
        let method = Some(head.method).filter(is_short).unwrap_or("other");
        Facts { method, protocol, bytes_in, bytes_out }
    }

    /// Of a WebSocket: how many bytes have passed.
    pub(super) fn of_tunnel(protocol: &'static str, passed: Passed) -> Self {
        Facts { method: "GET", protocol, bytes_in: passed.bytes_in, bytes_out: passed.bytes_out }
    }
}

impl Exchanges {
    /// The one record of a request.
    pub(super) fn record(&self, facts: &Facts<'_>, exchange: &Exchange) {
        let (metrics, known) = (&self.gate.shared.metrics, &exchange.known);
        let api = known.api.and_then(|index| exchange.snapshot.policy.apis.get(index as usize));
        let route = api.and_then(|api| api.routes.get(known.route? as usize));
        let (api_name, route_id) = (api.map_or("", |a| &*a.name), route.map_or("", |r| &*r.id));
        let environment = known.identity().environment();
        match (exchange.outcome, known.api.zip(known.route).and_then(|(a, r)| exchange.snapshot.route_metrics(a, r))) {
            (Outcome::Forwarded, Some(counters)) => {
                counters.count_forwarded(metrics, api_name, route_id, environment);
            }
            (outcome, _) => {
                let labels = [api_name, route_id, environment.as_str(), label(outcome)];
                metrics.requests.with_label_values(&labels).inc();
            }
        }
        let api_metrics = exchange.snapshot.api_metrics(known.api);
        api_metrics.count_answer(metrics, api_name, exchange.status);
        if known.shadowed {
            metrics.shadowed.with_label_values(&[api_name, route_id]).inc();
        }
        let decided = exchange.decided.unwrap_or_default();
        metrics.decision_seconds.observe(decided.as_secs_f64());
        let upstream = exchange.first_byte.map(|at| at.saturating_sub(decided)).unwrap_or_default();
        if exchange.first_byte.is_some() {
            api_metrics.observe_upstream(metrics, api_name, upstream.as_secs_f64());
        }
        self.gate.note_use(known, route_id);
        if self.shared.audit.is_on() {
            self.write_record(facts, exchange, (api_name, route_id), (decided, upstream));
        }
    }

    fn write_record(
        &self,
        facts: &Facts<'_>,
        exchange: &Exchange,
        (api, route): (&str, &str),
        (decided, upstream): (Duration, Duration),
    ) {
        let known = &exchange.known;
        let (key, grant, client, user) = match known.identity() {
            Identity::Anonymous => ("", "", "", ""),
            Identity::Key(key, _) => (&*key.id, "", "", ""),
            Identity::Token(token, _) => ("", &*token.grant, &*token.client, &*token.user),
        };
        let organization = known.identity().organization().map_or("", |organization| &*organization.id);
        let (key, organization) = match &known.refused {
            Some(refused) => (&*refused.id, &*refused.organization),
            None => (key, organization),
        };
        let environment = if known.caller.is_none() { "" } else { known.identity().environment().as_str() };
        let id = known.request_id.number();
        self.shared.audit.record(&Record {
            began_ms: known.now.wall_ms,
            id: id.map_or(RecordedId::Theirs(known.request_id.as_str()), |number| RecordedId::Ours(number.get())),
            api,
            route,
            method: facts.method,
            path: known.path(),
            address: Some(known.address),
            key,
            grant,
            client,
            user,
            organization,
            labels: Labels {
                outcome: label(exchange.outcome),
                protocol: facts.protocol,
                environment,
                limits: known.certainty.map_or("", Certainty::as_str),
                found: known.found.map_or("", found_label),
            },
            shadowed: known.shadowed,
            status: exchange.status,
            bytes_in: facts.bytes_in as u64,
            bytes_out: facts.bytes_out as u64,
            decision_us: micros(decided),
            upstream_us: micros(upstream),
            total_us: micros(self.gate.shared.clock.since(known.now)),
            upstream: exchange.chosen.as_ref().map(|endpoint| endpoint.address),
        });
    }
}

fn is_short(method: &&str) -> bool {
    method.len() <= METHOD_BYTES_MAX
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Open => "client_gone",
        Outcome::Answered(code) => code,
        Outcome::Forwarded => "forwarded",
        Outcome::BrokenOff => "upstream_broke_off",
        Outcome::CutOff => "cut_off",
    }
}
