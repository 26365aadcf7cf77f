//! `tollgate demo`: everything on loopback, with curl lines to paste.

use std::path::{Path, PathBuf};

use clap::Args;

use super::demo_clients::{SERVER_SIDE, SINGLE_PAGE};
use super::keys_for_demo as keys;
use super::{Context, Failure, demo_clients, init, logging, print, upstream};
use crate::base::clock::{Clock as _, System};
use crate::config::Config;
use crate::server::Start;
use crate::store::OrganizationRecord;

/// The demo.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for certificate, store and policies; made anew at each start.
    #[arg(long, default_value = ".demo")]
    folder: PathBuf,
}

const ICONFLOW: &str = include_str!("../../../deploy/examples/iconflow.yaml");
const ICODRIP: &str = include_str!("../../../deploy/examples/icodrip.yaml");

const SETTINGS: &str = "\
listen:
  - { address: \"127.0.0.1:8443\", kind: tls }
  - { address: \"127.0.0.1:8080\", kind: plain }
certificates:
  - { certificate: cert.pem, key: key.pem }
policy: [iconflow.yaml, icodrip.yaml]
store: sqlite://tollgate.db
pepper_file: pepper
admin: \"127.0.0.1:9090\"
access_log: false
";

/// Sample upstreams: name and port, as the example policies expect them.
const UPSTREAMS: [(&str, u16); 4] =
    [("iconflow-live", 9101), ("iconflow-sandbox", 9102), ("icodrip-live", 9201), ("icodrip-sandbox", 9202)];

const HOSTS: [&str; 3] = ["api.iconflow.dev", "api.icodrip.com", "auth.iconflow.dev"];

/// Ports of the gateway itself, as [`SETTINGS`] name them.
const GATEWAY: [u16; 3] = [8443, 8080, 9090];

impl Demo {
    /// Runs until Ctrl-C, or until its terminal is closed.
    pub(super) fn run(&self) -> Result<(), Failure> {
        let _logging = logging::start()?;
        std::fs::create_dir_all(&self.folder)?;
        let _lock = lock(&self.folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // Nothing is made or replaced before it is certain that this demo can run.
        let bind = |what: &str, port: u16| runtime.block_on(upstream::bind(port)).map_err(|e| taken(what, port, &e));
        let mut upstreams = Vec::new();
        for (name, port) in UPSTREAMS {
            upstreams.push((name, bind(&format!("sample upstream {name}"), port)?));
        }
        let single_page = bind("sample single-page client", SINGLE_PAGE)?;
        let server_side = bind("sample server-side client", SERVER_SIDE)?;
        let gateway = GATEWAY.map(|port| bind("gateway", port));
        let gateway = gateway.into_iter().collect::<Result<Vec<_>, _>>()?;

        prepare(&self.folder)?;
        let folder = std::fs::canonicalize(&self.folder)?;
        let settings = folder.join("tollgate.yaml");
        for (name, listener) in upstreams {
            runtime.spawn(upstream::serve(name, listener));
        }
        let made = runtime.block_on(async { keys::make(&Context::open(&settings, false).await?).await })?;
        runtime.spawn(demo_clients::single_page(single_page, made.apps.clone()));
        let (apps, ca) = (made.apps.clone(), folder.join("ca.pem"));
        runtime.spawn(async move { demo_clients::server_side(server_side, apps, &ca).await });
        runtime.spawn(end_with_terminal());
        // The gateway takes its ports itself.
        drop(gateway);
        runtime.spawn(say_when_up(instructions(&self.folder, &made)));
        crate::server::run(Config::read(&settings)?, Start::default())?;
        runtime.shutdown_background();
        Ok(())
    }
}

/// Files that a demo makes.
const OURS: [&str; 11] = [
    "ca.pem",
    "cert.pem",
    "key.pem",
    "pepper",
    "tollgate.yaml",
    "iconflow.yaml",
    "icodrip.yaml",
    "tollgate.db",
    "tollgate.db-wal",
    "tollgate.db-shm",
    "last-good-policy.json",
];

/// Keeps a second demo out of a folder while the first one runs.
fn lock(folder: &Path) -> Result<std::fs::File, Failure> {
    let lock = folder.join("demo.lock");
    // It also says whose the other files are.
    let others = || OURS.iter().find(|name| folder.join(name).exists());
    if let (false, Some(name)) = (lock.exists(), others()) {
        return Err(Failure::Refused(format!(
            "{} has a file `{name}` that is not of a demo; name another folder with --folder; nothing was changed",
            folder.display()
        )));
    }
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(lock)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::Refused(format!(
            "a demo is running in {} already; stop it with Ctrl-C first",
            folder.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// A gateway reloads on SIGHUP; a demo whose terminal was closed has nobody left to see it.
#[expect(clippy::disallowed_methods, reason = "nothing of a demo needs an orderly end, and nobody reads its code")]
async fn end_with_terminal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::hangup())?.recv().await;
    std::process::exit(0)
}

/// Prints the lines to paste once they work.
async fn say_when_up(text: String) -> Result<(), Failure> {
    for port in GATEWAY {
        crate::server::accepts((std::net::Ipv4Addr::LOCALHOST, port).into()).await;
    }
    print::line(&text)
}

fn taken(what: &str, port: u16, error: &std::io::Error) -> Failure {
    Failure::Refused(format!("port {port} on 127.0.0.1 is needed for the {what}: {error}; nothing was changed"))
}

/// Makes the folder. An earlier demo's files are replaced; anything else is left alone.
fn prepare(folder: &Path) -> Result<(), Failure> {
    for name in OURS {
        match std::fs::remove_file(folder.join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
    init::certificates(folder, &HOSTS.map(str::to_owned))?;
    init::write_new(&folder.join("pepper"), 0o600, init::pepper()?.as_bytes())?;
    std::fs::write(folder.join("tollgate.yaml"), SETTINGS)?;
    std::fs::write(folder.join("iconflow.yaml"), ICONFLOW)?;
    std::fs::write(folder.join("icodrip.yaml"), ICODRIP)?;
    Ok(())
}

/// Organizations of the demo.
pub(super) fn organizations() -> [OrganizationRecord; 2] {
    let made = |id: &str, name: &str, permissions: &[&str]| OrganizationRecord {
        id: id.into(),
        name: name.into(),
        plan: String::new(),
        permissions: permissions.iter().map(|p| (*p).to_owned()).collect(),
        created_ms: System.now_ms(),
        changed_ms: 0,
    };
    [
        made(
            "pixelforge",
            "PixelForge",
            &["packs:read", "packs:write", "downloads:read", "team:manage", "billing:read"],
        ),
        made("dripshop", "Drip Shop", &["affiliates:read", "affiliates:write", "events:track"]),
    ]
}

fn instructions(folder: &Path, made: &keys::Made) -> String {
    let folder = folder.display();
    let curl = format!("curl -s --cacert {folder}/ca.pem --connect-to ::127.0.0.1:8443");
    let tollgate = std::env::current_exe().map_or_else(|_| "tollgate".to_owned(), |p| p.display().to_string());
    let tollgate = format!("{tollgate} --config {folder}/tollgate.yaml");
    let keys::Made { read, write, admin, sandbox, icodrip, public, read_id, password, apps } = made;
    let (user, client) = (keys::USER, &apps.public);
    format!(
        "\nTollgate is on https://127.0.0.1:8443 (plain HTTP on 8080 refuses, metrics on 9090).\n\
         Paste these into another terminal, here in this folder.\n\n\
         # 200: a read key lists packs; the sample upstream shows what it received\n\
         {curl} https://api.iconflow.dev/v2/packs -H 'Authorization: Bearer {read}'\n\n\
         # 401: no credential\n\
         {curl} -i https://api.iconflow.dev/v2/packs\n\n\
         # 403: the read key may not write; the missing scope is named\n\
         {curl} -i -X POST https://api.iconflow.dev/v2/packs -H 'Authorization: Bearer {read}'\n\n\
         # 200: the write key may\n\
         {curl} -X POST https://api.iconflow.dev/v2/packs -H 'Authorization: Bearer {write}' -d '{{\"name\":\"arrows\"}}'\n\n\
         # 200: an admin key sees billing\n\
         {curl} https://api.iconflow.dev/v2/billing/invoices -H 'Authorization: Bearer {admin}'\n\n\
         # the sandbox: a test key reaches another upstream\n\
         {curl} https://api.iconflow.dev/v2/packs -H 'Authorization: Bearer {sandbox}'\n\n\
         # 429: Icodrip allows 100 requests per minute; the last ones of 105 are refused\n\
         {curl} -o /dev/null -w '%{{http_code}}\\n' -H 'Authorization: Bearer {icodrip}' 'https://api.icodrip.com/v1/affiliates?[1-105]' | sort | uniq -c\n\
         {curl} -i https://api.icodrip.com/v1/affiliates -H 'Authorization: Bearer {icodrip}'\n\n\
         # 200: the SDK's public key tracks events, also from a browser\n\
         {curl} -X POST https://api.icodrip.com/v1/events -H 'Authorization: Bearer {public}' -H 'Origin: https://shop.example' -d '{{}}'\n\n\
         # 403: plain HTTP is refused, and the key is recorded as exposed\n\
         curl -s -i --connect-to ::127.0.0.1:8080 http://api.iconflow.dev/v2/packs -H 'Authorization: Bearer {admin}'\n\n\
         # a revoke and its effect\n\
         {tollgate} keys revoke {read_id} --wait\n\
         {curl} -i https://api.iconflow.dev/v2/packs -H 'Authorization: Bearer {read}'\n\n\
         # a policy edit and its effect: packs become readable without a key\n\
         sed -i 's/access: {{ scopes: \\[\"packs:read\"\\] }}/access: public/' {folder}/iconflow.yaml && sleep 1\n\
         {curl} https://api.iconflow.dev/v2/packs\n\n\
         # OAuth: the authorization server says what it can\n\
         {curl} https://auth.iconflow.dev/.well-known/oauth-authorization-server\n\n\
         # OAuth: what users have let an application do; nothing yet\n\
         {tollgate} grants list --app {client}\n\n\
         # why? and what else?\n\
         {tollgate} explain --key {read_id} GET https://api.iconflow.dev/v2/billing/invoices\n\
         {tollgate} keys list --wide\n\
         curl -s http://127.0.0.1:9090/metrics | grep tollgate_requests_total\n\n\
         # in a browser: two sample clients, a single page and a server, walk the whole OAuth flow.\n\
         # Log in as {user} with the password {password}; then see Connected Applications.\n\
         chromium --user-data-dir={folder}/browser --ignore-certificate-errors --host-resolver-rules='MAP auth.iconflow.dev:443 127.0.0.1:8443, MAP api.iconflow.dev:443 127.0.0.1:8443' http://127.0.0.1:9301/ http://127.0.0.1:9302/ https://auth.iconflow.dev/account/applications\n\n\
         Ctrl-C stops everything.\n"
    )
}
