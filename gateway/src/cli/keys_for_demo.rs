//! Organizations and keys of every class for the demo.

use super::demo_clients::{SERVER_SIDE, SINGLE_PAGE};
use super::keys::issue::{ClassArg, EnvArg, Rights, create};
use super::{Context, Failure, demo, users};
use crate::registry::user::{Membership, Role};
use crate::registry::users::NewUser;

/// The demo's keys, as they are shown.
pub(super) struct Made {
    pub(super) read: String,
    pub(super) write: String,
    pub(super) admin: String,
    pub(super) sandbox: String,
    pub(super) icodrip: String,
    pub(super) public: String,
    pub(super) read_id: String,
    pub(super) apps: std::sync::Arc<Apps>,
    pub(super) password: String,
}

/// The demo's OAuth applications, as their developers know them.
pub(super) struct Apps {
    /// Client id of the single page.
    pub(super) public: String,
    /// Client id of the server-side client.
    pub(super) confidential: String,
    /// Its secret.
    pub(super) secret: String,
}

/// The user of the demo.
pub(super) const USER: &str = "jo@pixelforge.design";

async fn app(
    context: &Context,
    name: &str,
    port: u16,
    scopes: &str,
    confidential: bool,
) -> Result<(String, String), Failure> {
    let new = super::apps::Register {
        name: name.into(),
        org: "pixelforge".into(),
        redirect_uri: vec![format!("http://127.0.0.1:{port}/callback")],
        scopes: scopes.into(),
        api: Some("iconflow".into()),
        confidential,
    };
    let (app, secret) = new.run(context).await?;
    Ok((app.id, secret.unwrap_or_default()))
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
pub(super) async fn make(context: &Context) -> Result<Made, Failure> {
    for organization in demo::organizations() {
        context.store.insert_organization(&organization).await?;
    }
    let iconflow = async |name, class, env, scopes| {
        create(context, &rights("pixelforge", "iconflow", name, class, env, scopes)).await
    };
    let icodrip = async |name, class, env, scopes| {
        create(context, &rights("dripshop", "icodrip", name, class, env, scopes)).await
    };
    let (read, read_secret) =
        iconflow("Production CDN Reader", ClassArg::Read, EnvArg::Live, "packs:read,downloads:read").await?;
    let (_, write) = iconflow("Pack Uploader", ClassArg::Write, EnvArg::Live, "packs:read,packs:write").await?;
    let (_, admin) = iconflow("CI Pipeline", ClassArg::Admin, EnvArg::Live, "").await?;
    let (_, sandbox) = iconflow("Sandbox Reader", ClassArg::Read, EnvArg::Test, "packs:read").await?;
    let (_, backend) = icodrip("Production Backend", ClassArg::Read, EnvArg::Live, "affiliates:read").await?;
    icodrip("Staging Server", ClassArg::Write, EnvArg::Test, "affiliates:read,affiliates:write").await?;
    let (_, public) = icodrip("SDK", ClassArg::Public, EnvArg::Live, "events:track").await?;
    let scopes = "packs:read,downloads:read";
    let (single_page, _) = app(context, "PixelForge Design Tool", SINGLE_PAGE, scopes, false).await?;
    let (confidential, secret) = app(context, "PixelForge Reports", SERVER_SIDE, "packs:read", true).await?;
    let member = Membership { organization: "pixelforge".into(), role: Role::Owner };
    let jo = NewUser { email: USER.into(), name: "Jo Fischer".into(), memberships: vec![member] };
    let password = users::add_for_demo(context, jo).await?;
    Ok(Made {
        apps: std::sync::Arc::new(Apps { public: single_page, confidential, secret }),
        password: password.to_string(),
        read: read_secret.to_string(),
        write: write.to_string(),
        admin: admin.to_string(),
        sandbox: sandbox.to_string(),
        icodrip: backend.to_string(),
        public: public.to_string(),
        read_id: read.id,
    })
}
