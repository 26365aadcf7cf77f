//! Organizations and keys of every class for the demo.

use super::keys::issue::{ClassArg, EnvArg, Rights, create};
use super::{Desk, Failure, demo};

/// The demo's keys, as they are shown.
pub(super) struct Made {
    pub(super) read: String,
    pub(super) write: String,
    pub(super) admin: String,
    pub(super) sandbox: String,
    pub(super) icodrip: String,
    pub(super) public: String,
    pub(super) read_id: String,
}

fn rights(org: &str, api: &str, name: &str, class: ClassArg, env: EnvArg, scopes: &str) -> Rights {
    Rights {
        org: org.into(),
        api: Some(api.into()),
        name: name.into(),
        class,
        env,
        scopes: scopes.into(),
        expires: None,
        allow_address: Vec::new(),
        allow_origin: Vec::new(),
        limit: None,
    }
}

/// Makes them.
pub(super) async fn make(desk: &Desk) -> Result<Made, Failure> {
    for organization in demo::organizations() {
        desk.store.insert_organization(&organization).await?;
    }
    let iconflow = async |name, class, env, scopes| {
        create(desk, &rights("pixelforge", "iconflow", name, class, env, scopes)).await
    };
    let icodrip =
        async |name, class, env, scopes| create(desk, &rights("dripshop", "icodrip", name, class, env, scopes)).await;
    let (read, read_secret) =
        iconflow("Production CDN Reader", ClassArg::Read, EnvArg::Live, "packs:read,downloads:read").await?;
    let (_, write) = iconflow("Pack Uploader", ClassArg::Write, EnvArg::Live, "packs:read,packs:write").await?;
    let (_, admin) = iconflow("CI Pipeline", ClassArg::Admin, EnvArg::Live, "").await?;
    let (_, sandbox) = iconflow("Sandbox Reader", ClassArg::Read, EnvArg::Test, "packs:read").await?;
    let (_, backend) = icodrip("Production Backend", ClassArg::Read, EnvArg::Live, "affiliates:read").await?;
    icodrip("Staging Server", ClassArg::Write, EnvArg::Test, "affiliates:read,affiliates:write").await?;
    let (_, public) = icodrip("SDK", ClassArg::Public, EnvArg::Live, "events:track").await?;
    Ok(Made {
        read: read_secret.to_string(),
        write: write.to_string(),
        admin: admin.to_string(),
        sandbox: sandbox.to_string(),
        icodrip: backend.to_string(),
        public: public.to_string(),
        read_id: read.id,
    })
}
