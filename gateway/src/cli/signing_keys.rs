//! `tollgate signing-keys`: the keys that sign access tokens.

use clap::Subcommand;

use super::{Context, Failure, print};
use crate::base::clock::{Clock as _, System, rfc3339};
use crate::registry::keyring::KeyringRecord;
use crate::registry::{signing_keys, views};

/// Signing keys.
#[derive(Debug, Subcommand)]
pub(super) enum SigningKeys {
    /// List the keys and what each does now. Never shows a private key.
    List,
    /// Make the next key: it is published for an hour, then it signs.
    Rotate {
        /// A private key may be known to somebody: drop all keys, and with them every access token,
        /// and sign with a new one at once. Applications refresh.
        #[arg(long)]
        emergency: bool,
    },
}

impl SigningKeys {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let keys = signing_keys::SigningKeys::new(
            context.registry(),
            context.config.peppers.clone(),
            std::sync::Arc::new(System),
        );
        if let SigningKeys::Rotate { emergency } = self {
            keys.rotate(emergency, &Context::actor()).await?;
        }
        show(context, &keys.record().await?)
    }
}

fn show(context: &Context, ring: &KeyringRecord) -> Result<(), Failure> {
    let now_ms = System.now_ms();
    if context.json {
        return print::json(&views::signing_keys(ring, now_ms));
    }
    let rows = ring.keys.iter().map(|key| {
        let state = ring.state(&key.kid, now_ms).as_str();
        vec![key.kid.clone(), state.into(), rfc3339(key.created_ms), rfc3339(key.signs_from_ms)]
    });
    print::table(&["KID", "STATE", "CREATED", "SIGNS FROM"], rows)
}
