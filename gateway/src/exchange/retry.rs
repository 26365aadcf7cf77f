//! When forwarding fails: whose fault it is, and whether the request may be tried once more.

use super::Exchanges;
use super::failure::Failure;
use super::request_body::RequestBody;
use super::state::Exchange;
use crate::admit::denial::Denial;
use crate::downstream::Session;
use crate::upstream::Endpoint;
use crate::upstream::backend::Again;
use crate::upstream::fault::BackendFault;

impl Exchanges {
    /// Tells the operator of an upstream that failed.
    pub(super) fn log_trouble(&self, exchange: &Exchange, failure: &Failure, denial: &Denial, has_begun: bool) {
        let api = exchange.api_name();
        let address = exchange.chosen.as_ref().map_or_else(String::new, |endpoint| format!(" at {}", endpoint.address));
        let when = if has_begun { ", in the middle of its answer" } else { "" };
        tracing::warn!(
            target: "tollgate::upstream",
            "{api}: {}{address}{when} ({failure}), request {}", denial.code(), exchange.known.request_id
        );
    }

    /// No connection to an address could be made: it is passed over for a while. Nothing was sent,
    /// so that this costs no retry and any method may go elsewhere.
    pub(super) fn failed_to_connect(&self, exchange: &Exchange, endpoint: &Endpoint, fault: &BackendFault) {
        endpoint.eject(self.gate.shared.clock.steady_us());
        let api = exchange.api_name();
        tracing::warn!(
            target: "tollgate::upstream",
            "{api}: no connection to {} ({fault}), request {}", endpoint.address, exchange.known.request_id
        );
        self.count_retry(exchange);
    }

    fn count_retry(&self, exchange: &Exchange) {
        self.gate.shared.metrics.upstream_retries.with_label_values(&[exchange.api_name()]).inc();
    }

    /// Whether an exchange that failed after it began is tried once more.
    pub(super) fn is_tried_again(
        &self,
        session: &Session,
        exchange: &mut Exchange,
        body: &mut RequestBody,
        again: Again,
    ) -> bool {
        let allows = match again {
            Again::No => false,
            Again::IfIdempotent => session.head().is_idempotent(),
            Again::Yes | Again::OverHttp1 => true,
        };
        let environment = exchange.known.identity().environment();
        let most = exchange.place().map_or(0, |(api, _)| api.upstream(environment).retries);
        let is_again = allows && exchange.tries < most && !session.has_begun() && body.rewind();
        if is_again {
            exchange.tries += 1;
            self.count_retry(exchange);
        }
        is_again
    }
}
