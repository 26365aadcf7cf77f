//! Process settings: where to listen, which policy, which store.
//!
//! [`ConfigFile`] mirrors the YAML; [`Config`] is ready to run, with every path absolute and every
//! bound set. Only the second reaches the server. What the gateway decides is not here but in the
//! policy files.

mod audit;
mod bounds;
mod secrets;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use policy::span::Spanned;
use policy::tree::{Kind, Node};
use policy::{Problem, Problems, Source};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::digest::{Digest, Peppers};
use crate::store::RedisSettings;

pub use self::audit::AuditFile;
pub use self::bounds::{Bounds, BoundsFile};

type Text = Spanned<String>;

/// The settings file as it is written. Every field but `policy` has a default.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Where clients connect. Absent: TLS on 0.0.0.0:8443, refusing plain HTTP on 0.0.0.0:8080.
    pub listen: Option<Vec<ListenFile>>,
    /// Certificates for TLS; the first serves clients that name no host.
    #[serde(default)]
    pub certificates: Vec<CertificateFile>,
    /// Policy files.
    pub policy: Vec<Text>,
    /// Where organizations and keys live: `sqlite:///path` or a Redis URL. Absent: tollgate.db in `state`.
    pub store: Option<Text>,
    /// Certificate authority of a Redis that speaks TLS.
    pub store_ca: Option<Text>,
    /// Longest wait for an answer of Redis. Absent: 250ms.
    pub store_timeout: Option<Text>,
    /// File with the pepper of the key hashes, 64 hexadecimal characters.
    pub pepper_file: Option<Text>,
    /// File with the pepper before it, while it is being rotated.
    pub previous_pepper_file: Option<Text>,
    /// Folder for what the gateway writes itself. Absent: the folder of this file.
    pub state: Option<Text>,
    /// Address of metrics, health and readiness. Absent: 127.0.0.1:9090.
    pub admin: Option<Text>,
    /// Proxies in front whose `X-Forwarded-For` is believed. Absent: none.
    #[serde(default)]
    pub trusted_proxies: Vec<Text>,
    /// Certificate authority of upstreams that speak TLS, instead of the system's.
    pub upstream_ca: Option<Text>,
    /// Certificate authority of other issuers and OpenID Providers, instead of the system's.
    pub issuer_ca: Option<Text>,
    /// File with the key of the management API on the admin listener, at least 32 characters.
    /// Absent: there is no management API.
    pub management_key_file: Option<Text>,
    /// Worker threads. Absent: one per core.
    pub threads: Option<Spanned<u32>>,
    /// Bounds; each has a default.
    #[serde(default)]
    pub bounds: BoundsFile,
    /// Whether a JSON line is written to standard output for each request. Absent: true.
    pub access_log: Option<bool>,
    /// What is kept of requests.
    #[serde(default)]
    pub audit: AuditFile,
}

/// One listener.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenFile {
    /// Address and port.
    pub address: Text,
    /// What it speaks. Absent: tls.
    pub kind: Option<ListenKindFile>,
    /// For `trusted`: who ends TLS in front of it, in words that will be read in a year.
    pub terminated_by: Option<Text>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ListenKindFile {
    /// TLS.
    Tls,
    /// Plain HTTP, which is refused with a 403.
    Plain,
    /// Plain HTTP from something that ended TLS in front of us.
    Trusted,
}

/// A certificate and its key, in PEM files that are watched.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFile {
    /// Certificate chain.
    pub certificate: Text,
    /// Private key.
    pub key: Text,
}

/// What a listener speaks, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenKind {
    /// TLS.
    Tls,
    /// Plain HTTP, refused.
    Plain,
    /// Plain HTTP behind a TLS terminator.
    Trusted {
        /// Who that is.
        terminated_by: String,
    },
}

/// One listener, ready to run.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Address.
    pub address: SocketAddr,
    /// What it speaks.
    pub kind: ListenKind,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePaths {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Everything a process needs to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Listeners.
    pub listen: Vec<Listen>,
    /// Certificates.
    pub certificates: Vec<CertificatePaths>,
    /// Policy files, absolute.
    pub policy: Vec<PathBuf>,
    /// Store URL.
    pub store: String,
    /// How to reach a Redis.
    pub redis: RedisSettings,
    /// Peppers of the key hashes.
    pub peppers: Peppers,
    /// Folder for what the gateway writes.
    pub state: PathBuf,
    /// Admin listener.
    pub admin: SocketAddr,
    /// Believed proxies.
    pub trusted_proxies: Vec<IpNet>,
    /// Certificate authority of upstreams.
    pub upstream_ca: Option<PathBuf>,
    /// Certificate authority of issuers.
    pub issuer_ca: Option<PathBuf>,
    /// Hash of the key of the management API.
    pub management_key: Option<Digest>,
    /// Folder of the settings file: names of files in policies are relative to it.
    pub folder: PathBuf,
    /// Worker threads.
    pub threads: usize,
    /// Bounds.
    pub bounds: Bounds,
    /// Whether the access log is written.
    pub access_log: bool,
    /// What is kept of requests.
    pub audit: crate::audit::settings::Settings,
}

impl Config {
    /// Reads a settings file. Everything that is wrong with it is reported at once.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause: cause.to_string() })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let root = policy::tree::parse(0, &text);
        if !looks_like_settings(&root, &text) {
            return Err(ConfigError::NotSettings { path: path.to_owned() });
        }
        let mut problems = Vec::new();
        let config = parse(root, &folder, &mut problems);
        let source = Source { name: path.display().to_string(), text: without_urls(&text) };
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            Some(_) | None => {
                problems.sort_by_key(|p| p.span);
                let (sources, subject) = (vec![source], "the settings were");
                Err(ConfigError::Wrong(Problems { list: problems, sources, subject }))
            }
        }
    }
}

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the settings file {}: {cause}; name one with --config, or make one with `tollgate init`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// It is some other file. Nothing of it is shown: it may be a secret.
    #[error(
        "{} is no settings file: it has no field `policy`; name one with --config, or make one with `tollgate init`",
        path.display()
    )]
    NotSettings {
        /// The file.
        path: PathBuf,
    },
    /// It says something wrong.
    #[error("{0}")]
    Wrong(Problems),
}

/// Whether a file has the one field that settings must have, at its root. What has not is not looked
/// into further: problems are shown with excerpts, and any file can be named by mistake.
fn looks_like_settings(root: &Result<Node, Problem>, text: &str) -> bool {
    match root {
        Ok(root) => match &root.kind {
            Kind::Map(entries) => entries.iter().any(|(name, ..)| name == "policy"),
            Kind::Null | Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_) | Kind::Text(_) | Kind::List(_) => false,
        },
        // A slip in settings has to be shown.
        Err(_) => text.lines().any(|line| line.starts_with("policy:")),
    }
}

/// What is shown of settings: no line with a URL, which may hold a password.
fn without_urls(text: &str) -> String {
    text.lines().map(|line| if line.contains("://") { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

fn parse(root: Result<Node, Problem>, folder: &Path, problems: &mut Vec<Problem>) -> Option<Config> {
    let root = root.map_err(|p| problems.push(p)).ok()?;
    let span = root.span;
    let root = policy::shape::check(root, &schema(), problems)?;
    let file = ConfigFile::deserialize(&root);
    let file = file.map_err(|e| problems.push(Problem::at(span, format!("cannot be read: {e}")))).ok()?;
    ready(file, folder, problems)
}

fn take<T>(text: &Text, problems: &mut Vec<Problem>, with: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    with(text).map_err(|message| problems.push(Problem::at(text.span, message))).ok()
}

fn duration(text: Option<&Text>, default: Duration, problems: &mut Vec<Problem>) -> Duration {
    text.and_then(|t| take(t, problems, policy::units::duration)).unwrap_or(default)
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address and port, such as `127.0.0.1:9090` or `[::]:8443`"))
}

fn ready(file: ConfigFile, folder: &Path, problems: &mut Vec<Problem>) -> Option<Config> {
    let at = |text: &Text| folder.join(text.as_str());
    let state = file.state.as_ref().map_or_else(|| folder.to_owned(), at);
    let listen = listeners(file.listen.as_deref(), problems);
    let certificates: Vec<_> = file
        .certificates
        .iter()
        .map(|c| CertificatePaths { certificate: at(&c.certificate), key: at(&c.key) })
        .collect();
    if certificates.is_empty() && listen.iter().any(|l| l.kind == ListenKind::Tls) {
        let first = file.policy.first().map(|p| p.span).unwrap_or_default();
        problems.push(Problem::at(first, "there is a TLS listener but no certificate").help(
            "add `certificates: [{ certificate: cert.pem, key: key.pem }]`; `tollgate init` makes one to try with",
        ));
    }
    if file.policy.is_empty() {
        problems.push(Problem::at(Default::default(), "no policy file is named"));
    }
    let peppers = secrets::peppers(&file, folder, problems);
    let management_key = peppers.as_ref().and_then(|peppers| secrets::management_key(&file, peppers, folder, problems));
    let store = match &file.store {
        Some(text) => match text.strip_prefix("sqlite://") {
            Some(path) => format!("sqlite://{}", folder.join(path).display()),
            None => text.value.clone(),
        },
        None => format!("sqlite://{}", state.join("tollgate.db").display()),
    };
    let admin =
        file.admin.as_ref().map_or(Some(SocketAddr::from(([127, 0, 0, 1], 9090))), |t| take(t, problems, socket));
    let trusted = file.trusted_proxies.iter().filter_map(|t| {
        take(t, problems, |s| {
            s.parse::<IpNet>()
                .or_else(|_| s.parse::<IpAddr>().map(IpNet::from))
                .map_err(|_| format!("`{s}` is not an address range, such as `10.0.0.0/8`"))
        })
    });
    let trusted_proxies = trusted.collect();
    let defaults = RedisSettings::default();
    let redis = RedisSettings {
        timeout: duration(file.store_timeout.as_ref(), defaults.timeout, problems),
        ca: file.store_ca.as_ref().map(at),
        ..defaults
    };
    if let Some(text) = &file.store
        && let Err(why) = crate::store::check_url(&store, &redis)
    {
        problems.push(Problem::at(text.span, why));
    }
    let bounds = bounds::bounds(&file.bounds, problems);
    let audit = audit::settings(&file.audit, (&state, folder), problems);
    Some(Config {
        listen,
        certificates,
        policy: file.policy.iter().map(at).collect(),
        store,
        redis,
        peppers: peppers?,
        state,
        admin: admin?,
        trusted_proxies,
        upstream_ca: file.upstream_ca.as_ref().map(at),
        issuer_ca: file.issuer_ca.as_ref().map(at),
        management_key,
        folder: folder.to_owned(),
        threads: file.threads.as_ref().map_or_else(cores, |n| (**n).clamp(1, 256) as usize),
        bounds,
        access_log: file.access_log.unwrap_or(true),
        audit,
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn listeners(files: Option<&[ListenFile]>, problems: &mut Vec<Problem>) -> Vec<Listen> {
    let Some(files) = files else {
        return [(8443, ListenKind::Tls), (8080, ListenKind::Plain)]
            .map(|(port, kind)| Listen { address: SocketAddr::from(([0, 0, 0, 0], port)), kind })
            .into();
    };
    let mut list = Vec::new();
    for file in files {
        let Some(address) = take(&file.address, problems, socket) else { continue };
        let kind = match (file.kind, &file.terminated_by) {
            (Some(ListenKindFile::Tls) | None, None) => ListenKind::Tls,
            (Some(ListenKindFile::Plain), None) => ListenKind::Plain,
            (Some(ListenKindFile::Trusted), Some(who)) => ListenKind::Trusted { terminated_by: who.value.clone() },
            (Some(ListenKindFile::Trusted), None) => {
                problems.push(
                    Problem::at(file.address.span, "a trusted listener takes credentials over plain HTTP")
                        .help("say who ends TLS in front of it: `terminated_by: ...`"),
                );
                continue;
            }
            (Some(ListenKindFile::Tls | ListenKindFile::Plain) | None, Some(text)) => {
                problems.push(Problem::at(text.span, "`terminated_by` belongs to a listener of kind `trusted`"));
                continue;
            }
        };
        list.push(Listen { address, kind });
    }
    list
}

/// The JSON Schema of the settings file.
pub fn schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12();
    settings.into_generator().into_root_schema_for::<ConfigFile>().to_value()
}
