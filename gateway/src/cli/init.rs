//! `tollgate init`: what a new gateway needs, in one folder.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::{Failure, print};
use crate::base::random::fill;

/// A new gateway's folder.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Folder to make.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Host of the API, for policy and certificate; may be repeated.
    #[arg(long, default_value = "api.localhost")]
    host: Vec<String>,
    /// Address of the backend.
    #[arg(long, default_value = "127.0.0.1:9000")]
    upstream: String,
}

impl Init {
    pub(super) fn run(&self, json: bool) -> Result<(), Failure> {
        // Nothing is written that `check` would refuse.
        let policy = policy(&self.host, &self.upstream);
        let name = self.folder.join("policy.yaml").display().to_string();
        let problems = policy::compile(vec![policy::Source { name, text: policy.clone() }]).err();
        if let Some(first) = problems.as_ref().and_then(|problems| problems.list.first()) {
            let help = first.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
            return Err(Failure::Refused(format!("{}{help}; nothing was written", first.message)));
        }
        std::fs::create_dir_all(&self.folder)?;
        let at = |name: &str| self.folder.join(name);
        write_new(&at("pepper"), 0o600, pepper()?.as_bytes())?;
        certificates(&self.folder, &self.host)?;
        write_new(&at("policy.yaml"), 0o644, policy.as_bytes())?;
        write_new(&at("tollgate.yaml"), 0o644, SETTINGS.as_bytes())?;
        if json {
            return print::json(&serde_json::json!({ "folder": self.folder, "settings": at("tollgate.yaml") }));
        }
        let folder = self.folder.display();
        print::line(&format!(
            "Made {folder}/tollgate.yaml, policy.yaml, pepper, ca.pem, cert.pem and key.pem. Next:\n\
             \x20 edit {folder}/policy.yaml, then: tollgate --config {folder}/tollgate.yaml check\n\
             \x20 tollgate --config {folder}/tollgate.yaml orgs create acme --permissions items:read,items:write\n\
             \x20 tollgate --config {folder}/tollgate.yaml keys create --org acme --name first --class read --scopes items:read\n\
             \x20 tollgate --config {folder}/tollgate.yaml serve"
        ))
    }
}

const SETTINGS: &str = "\
# Settings of this gateway. `tollgate schema settings` describes every field.
listen:
  - { address: \"127.0.0.1:8443\", kind: tls }
  - { address: \"127.0.0.1:8080\", kind: plain } # refuses, and says so
certificates:
  - { certificate: cert.pem, key: key.pem }
policy: [policy.yaml]
store: sqlite://tollgate.db
pepper_file: pepper # not in the store's backups: without it a stolen store is useless
admin: \"127.0.0.1:9090\" # /metrics, /healthz, /readyz
";

fn policy(hosts: &[String], upstream: &str) -> String {
    // JSON is YAML: whatever was typed is one text.
    let upstream = serde_json::Value::from(upstream);
    format!(
        "# The API behind this gateway. `tollgate check` prints every problem at once.\n\
         version: 1\n\
         apis:\n\
         \x20 - name: mine\n\
         \x20   hosts: [{}]\n\
         \x20   keys: {{ live: mine_live_ }}\n\
         \x20   upstreams:\n\
         \x20     live: {{ addresses: [{upstream}] }}\n\
         \x20   scopes:\n\
         \x20     items:read: Reading items\n\
         \x20     items:write: Changing items\n\
         \x20   plans:\n\
         \x20     standard: {{ per_key: 100/min }}\n\
         \x20   routes:\n\
         \x20     - id: items-read\n\
         \x20       methods: [GET]\n\
         \x20       paths: [/items, /items/**]\n\
         \x20       access: {{ scopes: [\"items:read\"] }}\n\
         \x20     - id: items-write\n\
         \x20       methods: [POST, PUT, PATCH, DELETE]\n\
         \x20       paths: [/items, /items/**]\n\
         \x20       access: {{ scopes: [\"items:write\"] }}\n",
        hosts.iter().map(|host| serde_json::Value::from(&**host).to_string()).collect::<Vec<_>>().join(", ")
    )
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file =
        opened.map_err(|e| Failure::Refused(format!("cannot make {}: {e}; nothing is overwritten", path.display())))?;
    file.write_all(content)?;
    Ok(())
}

/// A new pepper, as its file holds it.
pub(super) fn pepper() -> Result<String, Failure> {
    let mut bytes = [0u8; 32];
    fill(&mut bytes)?;
    Ok(format!("{}\n", blake3::Hash::from_bytes(bytes).to_hex()))
}

/// A certificate authority of our own and a certificate of it, ECDSA P-256: `ca.pem`, `cert.pem`,
/// `key.pem`. For trying; real clients need a certificate that they trust.
pub(super) fn certificates(folder: &Path, hosts: &[String]) -> Result<(), Failure> {
    let failed = |e: rcgen::Error| Failure::Refused(format!("cannot make a certificate: {e}"));
    let now = std::time::Duration::from_millis(crate::base::clock::Clock::now_ms(&crate::base::clock::System));
    let day = std::time::Duration::from_secs(86_400);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let (before, after) = (epoch + (now - day), epoch + (now + 90 * day));
    let mut authority = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    authority.distinguished_name.push(DnType::CommonName, "Tollgate trial authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.not_before = before;
    authority.not_after = after;
    let authority_key = KeyPair::generate().map_err(failed)?;
    let authority_certificate = authority.self_signed(&authority_key).map_err(failed)?;
    let issuer = Issuer::new(authority, authority_key);
    let mut names = hosts.to_vec();
    names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    let mut leaf = CertificateParams::new(names).map_err(failed)?;
    leaf.distinguished_name.push(DnType::CommonName, hosts.first().map_or("localhost", String::as_str));
    leaf.not_before = before;
    leaf.not_after = after;
    // What strict verifiers want of a certificate of a server (RFC 5280 sections 4.2.1.1, 4.2.1.3 and
    // 4.2.1.12): which key signed it, and what its own is for.
    leaf.use_authority_key_identifier_extension = true;
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf_key = KeyPair::generate().map_err(failed)?;
    let certificate = leaf.signed_by(&leaf_key, &issuer).map_err(failed)?;
    write_new(&folder.join("ca.pem"), 0o644, authority_certificate.pem().as_bytes())?;
    write_new(&folder.join("cert.pem"), 0o644, certificate.pem().as_bytes())?;
    write_new(&folder.join("key.pem"), 0o600, leaf_key.serialize_pem().as_bytes())
}
