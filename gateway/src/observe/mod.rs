//! What an operator sees: metrics, health and readiness.
//!
//! Labels come from closed lists and the policy, never from a request.

mod health;
mod metrics;

pub use self::health::Health;
pub use self::metrics::{ApiMetrics, AuditMetrics, LimitMetrics, MetricFault, Metrics, RouteMetrics};
