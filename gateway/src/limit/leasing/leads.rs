//! Finds out whether a server is still the one that its name leads to: a server that was replaced does not say
//! so.

use std::time::Duration;

use redis::RedisError;

use crate::store::topology::{LOOK_EVERY, Topology, info, info_field, untimed};

/// After so many looks in a row at which we were not let in, whoever is connected still is given up.
const REFUSED_MAX: u32 = 3;

/// What a master is told from others by, and from itself after a restart; none of a replica.
pub fn epoch_of(text: &str) -> Option<String> {
    let field = |name| info_field(text, name);
    let epoch = || [field("run_id"), field("master_replid")].map(Option::unwrap_or_default).join(" ");
    (field("role") == Some("master")).then(epoch)
}

/// Longest time for one attempt to connect. Sentinels may have to be asked in turn.
pub fn connect_limit(topology: &Topology, connect_timeout: Duration) -> Duration {
    match topology {
        Topology::Alone(_) => connect_timeout,
        Topology::Sentinel(_) | Topology::Cluster(..) => connect_timeout * 2,
    }
}

/// Returns when a new connection would not be one to the same master any more, and says why.
pub async fn leads_elsewhere(topology: &Topology, epoch: &str, connect_timeout: Duration) -> &'static str {
    let mut refused = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let plain = untimed();
        let ask = async { info(&mut topology.connect(&plain).await?).await };
        refused = match tokio::time::timeout(connect_limit(topology, connect_timeout), ask).await {
            Ok(Ok(text)) if epoch_of(&text).as_deref() == Some(epoch) => 0,
            Ok(Ok(_)) => return "its name leads to another server, or it is no master any more",
            Ok(Err(error)) if is_refusal(&error) => refused + 1,
            // Who cannot be asked now says nothing of the one that is connected.
            Ok(Err(_)) | Err(_) => 0,
        };
        if refused == REFUSED_MAX {
            return "its name leads to a server that does not let us in";
        }
    }
}

/// Whether a server answered that it does not let us in.
fn is_refusal(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_has_an_epoch_and_a_replica_has_none() {
        let info = "run_id:abc\r\nrole:master\r\nmaster_replid:def\r\n";
        assert_eq!(epoch_of(info).as_deref(), Some("abc def"));
        assert_eq!(epoch_of(&info.replace("master\r", "slave\r")), None);
    }
}
