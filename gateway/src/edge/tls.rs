//! TLS towards clients: certificates by host name, replaced while running, 256-bit suites only.
//!
//! A certificate is proved before it is used: the key belongs to it, it is in force now, and it
//! has not expired. A bad file on disk changes nothing; the certificates in force stay. A gateway that
//! starts with an expired one serves it all the same, and says so: no certificate would be worse.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use crate::config::CertificatePaths;

/// Why certificates cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertificateFault(String);

/// Certificates that were proved.
#[derive(Debug, Default)]
pub struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
    /// First instant at which one of them is out of force, Unix seconds.
    pub not_after_s: Option<i64>,
    /// Those that are not in force now, and why.
    out_of_date: Vec<(CertificateDer<'static>, CertificateFault)>,
}

/// The crypto provider with 256-bit suites only (the page promises "256-bit TLS encryption") and
/// the hybrid post-quantum key exchange first.
pub fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite as suites;
    CryptoProvider {
        cipher_suites: vec![
            suites::TLS13_AES_256_GCM_SHA384,
            suites::TLS13_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Makes [`provider`] the process's own. Called once, first in main; a second call changes nothing.
pub fn install_provider() {
    let _ = provider().install_default();
}

impl Certificates {
    /// These, if all of them are in force now.
    pub fn in_force(self) -> Result<Self, CertificateFault> {
        self.unless_worse_than(&Certificates::default())
    }

    /// These, if all of them are in force now but for those that `others` have too: one that was not
    /// renewed must not hold up the renewal of another.
    fn unless_worse_than(self, others: &Certificates) -> Result<Self, CertificateFault> {
        let certified = || others.exact.values().chain(others.wildcard.values());
        let is_new = |leaf: &CertificateDer<'_>| !certified().any(|other| other.cert.first() == Some(leaf));
        match self.out_of_date.iter().find(|(leaf, _)| is_new(leaf)) {
            Some((_, fault)) => Err(fault.clone()),
            None => Ok(self),
        }
    }

    /// Why one of them is not in force now.
    pub fn out_of_date(&self) -> Option<&CertificateFault> {
        self.out_of_date.first().map(|(_, fault)| fault)
    }

    /// Loads certificates and proves all but that they are in force. `now_s` is Unix seconds.
    pub fn load(paths: &[CertificatePaths], now_s: i64) -> Result<Self, CertificateFault> {
        let mut loaded = Certificates::default();
        for pair in paths {
            loaded.add(pair, now_s)?;
        }
        Ok(loaded)
    }

    fn add(&mut self, pair: &CertificatePaths, now_s: i64) -> Result<(), CertificateFault> {
        let at = |path: &Path, what: String| CertificateFault(format!("{}: {what}", path.display()));
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&pair.certificate)
            .and_then(Iterator::collect)
            .map_err(|e| at(&pair.certificate, format!("cannot read certificates: {e}")))?;
        let key = PrivateKeyDer::from_pem_file(&pair.key)
            .map_err(|e| at(&pair.key, format!("cannot read a private key: {e}")))?;
        let leaf = chain.first().ok_or_else(|| at(&pair.certificate, "there is no certificate in it".into()))?;
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|e| at(&pair.certificate, format!("cannot be read as a certificate: {e}")))?;
        let (from_s, until_s) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        if now_s < from_s || now_s >= until_s {
            let what = if now_s < from_s { "is not in force yet" } else { "has expired" };
            let fault = at(&pair.certificate, format!("the certificate {what}"));
            self.out_of_date.push((leaf.clone(), fault));
        }
        let names = names(&parsed);
        if names.is_empty() {
            return Err(at(&pair.certificate, "the certificate names no host".into()));
        }
        let certified = CertifiedKey::from_der(chain.clone(), key, &provider()).map_err(|e| {
            at(&pair.key, format!("the key does not fit the certificate {}: {e}", pair.certificate.display()))
        })?;
        let certified = Arc::new(certified);
        for name in names {
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcard.insert(parent.to_owned(), certified.clone()),
                None => self.exact.insert(name, certified.clone()),
            };
        }
        self.first.get_or_insert(certified);
        self.not_after_s = Some(self.not_after_s.map_or(until_s, |other| other.min(until_s)));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.exact.get(&name).or_else(|| parent.and_then(|parent| self.wildcard.get(parent))).cloned()
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for extension in certificate.extensions() {
        if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
            for name in &alternative.general_names {
                if let GeneralName::DNSName(dns) = name {
                    names.push(dns.to_ascii_lowercase());
                } else if let GeneralName::IPAddress(raw) = name {
                    names.extend(ip(raw));
                }
            }
        }
    }
    names
}

fn ip(raw: &[u8]) -> Option<String> {
    <[u8; 4]>::try_from(raw)
        .map(|v4| std::net::Ipv4Addr::from(v4).to_string())
        .or_else(|_| <[u8; 16]>::try_from(raw).map(|v6| std::net::Ipv6Addr::from(v6).to_string()))
        .ok()
}

/// Chooses the certificate of each handshake from those in force at that moment.
#[derive(Debug, Default)]
pub struct Resolver {
    now: ArcSwap<Certificates>,
}

impl Resolver {
    /// Puts certificates in force; connections that are open keep theirs.
    pub fn replace(&self, certificates: Certificates) {
        self.now.store(Arc::new(certificates));
    }

    /// Those, if they are no worse than what is in force: all within their time, but for those that
    /// are in use already.
    pub fn judge(&self, certificates: Certificates) -> Result<Certificates, CertificateFault> {
        certificates.unless_worse_than(&self.now.load())
    }

    /// First instant at which a certificate in force expires, Unix seconds.
    pub fn not_after_s(&self) -> Option<i64> {
        self.now.load().not_after_s
    }
}

impl ResolvesServerCert for Resolver {
    /// A client that names a host gets that host's certificate or none (the handshake fails with
    /// unrecognized_name); one that names none gets the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = self.now.load();
        match hello.server_name() {
            Some(name) => now.find(name),
            None => now.first.clone(),
        }
    }
}

/// The acceptor of a TLS listener: TLS 1.2 and 1.3; h2, http/1.1 and http/1.0; no early data. A client that
/// offers protocols and none of these is refused (RFC 7301 section 3.2).
pub fn acceptor(resolver: Arc<Resolver>) -> Result<Acceptor, CertificateFault> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| CertificateFault(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.max_early_data_size = 0;
    // Without state: a client comes back to a session however many others came in between. The keys are
    // drawn at the start and replaced every six hours, so that no older traffic can be read with them.
    config.ticketer = Ticketer::new().map_err(|e| CertificateFault(e.to_string()))?;
    config.send_tls13_tickets = 1;
    Ok(Acceptor::from_server_config(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const NOW_S: i64 = 1_790_000_000;

    fn pair(folder: &Path, name: &str, hosts: &[&str]) -> CertificatePaths {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(hosts).unwrap().self_signed(&key).unwrap();
        let paths = CertificatePaths {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        std::fs::write(&paths.certificate, certificate.pem()).unwrap();
        std::fs::write(&paths.key, key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn a_certificate_is_found_by_the_name_that_the_client_gives() {
        let folder = tempfile::tempdir().unwrap();
        let one = pair(folder.path(), "one", &["api.one.example"]);
        let two = pair(folder.path(), "two", &["*.two.example", "two.example"]);
        let loaded = Certificates::load(&[one, two], NOW_S).unwrap();
        let found = |name: &str| loaded.find(name).map(|c| c.cert.first().cloned().unwrap());
        assert!(found("API.one.example").is_some());
        assert!(found("api.two.example").is_some() && found("two.example").is_some());
        assert_ne!(found("api.one.example"), found("api.two.example"));
        for name in ["other.example", "a.api.two.example", "one.example"] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn one_that_was_not_renewed_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (old, other) = (pair(folder.path(), "old", &["old.example"]), pair(folder.path(), "b", &["b.example"]));
        let resolver = Resolver::default();
        let much_later = 100_000_000_000;
        let load = |pairs: &[&CertificatePaths]| {
            Certificates::load(&pairs.iter().map(|p| (*p).clone()).collect::<Vec<_>>(), much_later).unwrap()
        };
        assert!(resolver.judge(load(&[&old])).is_err());
        resolver.replace(load(&[&old]));
        assert!(resolver.judge(load(&[&old])).is_ok());
        assert!(resolver.judge(load(&[&old, &other])).is_err(), "one that is new must be in force");
    }

    #[test]
    fn a_certificate_is_proved_before_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (pair(folder.path(), "one", &["a.example"]), pair(folder.path(), "two", &["a.example"]));
        let mixed = CertificatePaths { certificate: one.certificate.clone(), key: two.key };
        let fault = |paths: &CertificatePaths, now_s| {
            let loaded = Certificates::load(std::slice::from_ref(paths), now_s).and_then(Certificates::in_force);
            loaded.unwrap_err().to_string()
        };
        assert!(fault(&mixed, NOW_S).contains("does not fit"));
        assert!(fault(&one, 100_000_000_000).contains("has expired"));
        assert!(fault(&one, 0).contains("not in force yet"));
        let missing = CertificatePaths { certificate: "/nonexistent".into(), ..one.clone() };
        assert!(fault(&missing, NOW_S).contains("/nonexistent"));
        let nameless = pair(folder.path(), "three", &[]);
        assert!(fault(&nameless, NOW_S).contains("names no host"));
    }
}
